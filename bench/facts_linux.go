package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// machine returns the model of the processor and the size of the memory.
func machine() (cpu, memory string) {
	cpu = valueOf("/proc/cpuinfo", "model name")
	var kib int64
	if _, err := fmt.Sscan(valueOf("/proc/meminfo", "MemTotal"), &kib); err == nil {
		memory = fmt.Sprintf("%.1f GiB", float64(kib)/(1<<20))
	}
	return cpu, memory
}

func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease") // "" if it is not there
	return strings.TrimSpace(string(data))
}

// fileSystem names the type of the one that a directory lies on.
func fileSystem(dir string) string {
	text, err := exec.Command("findmnt", "--noheadings", "--output=FSTYPE", "--target="+dir).Output()
	if err != nil {
		return "not known"
	}
	return firstLine(text)
}

// valueOf returns what follows the first key of that name in a file of proc(5).
func valueOf(file, key string) string {
	data, _ := os.ReadFile(file) // "" if it is not there
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "not known"
}

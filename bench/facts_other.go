//go:build !linux

package main

func machine() (cpu, memory string) { return "not known", "not known" }

func kernel() string { return "" }

func fileSystem(string) string { return "not known" }

package crashfs_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

func TestLog(t *testing.T) {
	fsys := built(t, "a", "123")
	f := open(t, fsys, "a", os.O_RDWR|os.O_APPEND)
	_, err := f.WriteString("4")
	check(t, err)
	_, err = f.ReadAt(make([]byte, 2), 1)
	check(t, err)
	check(t, f.Close())
	_ = f.Close() // not an operation: closed
	check(t, fsys.MkdirAll("d/e", 0o755))
	check(t, fsys.Rename("a", "d/b"))
	check(t, fsys.RemoveAll("d"))
	_, _ = fsys.Stat("a")
	_ = fsys.LinkIfPossible("a", "b")
	var got []string
	for _, op := range fsys.Log() {
		op.Err = nil // its text is the platform's
		got = append(got, op.String())
	}
	want := []string{
		fmt.Sprintf("#1 open a flag %#x", os.O_RDWR|os.O_APPEND),
		"#2 write a 1 bytes at 3",
		"#3 read a 2 bytes at 1",
		"#4 close a",
		"#5 stat d/e",
		"#6 stat d",
		"#7 mkdir d",
		"#8 mkdir d/e",
		"#9 rename a -> d/b",
		"#10 readdirent d",
		"#11 remove d/b",
		"#12 readdirent d/e",
		"#13 remove d/e",
		"#14 remove d",
		"#15 stat a",
		"#16 link a -> b",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("log (-got +want):\n%s", diff)
	}
}

func TestFaults(t *testing.T) {
	type result struct {
		n    int
		err  error
		file string // what is in it afterwards
	}
	writing := func(f afero.File) (int, error) { return f.WriteString("12345678") }
	reading := func(f afero.File) (int, error) { return f.ReadAt(make([]byte, 4), 0) }
	for _, c := range []struct {
		name  string
		fault crashfs.Fault
		do    func(afero.File) (int, error)
		want  result
	}{
		{"write_fails", crashfs.Fault{Effect: crashfs.FailBefore}, writing, result{0, syscall.EIO, "abcd"}},
		{"write_no_space", crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.ENOSPC}, writing, result{0, syscall.ENOSPC, "abcd"}},
		{"write_done_and_failed", crashfs.Fault{Effect: crashfs.FailAfter}, writing, result{8, syscall.EIO, "12345678"}},
		{"write_short", crashfs.Fault{Effect: crashfs.Short}, writing, result{4, nil, "1234"}},
		{"write_short_no_space", crashfs.Fault{Effect: crashfs.Short, Err: syscall.ENOSPC}, writing, result{4, syscall.ENOSPC, "1234"}},
		{"read_fails", crashfs.Fault{Effect: crashfs.FailBefore}, reading, result{0, syscall.EIO, "abcd"}},
		{"read_short", crashfs.Fault{Effect: crashfs.Short}, reading, result{2, nil, "abcd"}},
		{"read_needs_no_space", crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.ENOSPC}, reading, result{4, nil, "abcd"}},
		{"power_cut", crashfs.Fault{Effect: crashfs.PowerCut}, writing, result{0, crashfs.ErrPowerCut, "abcd"}},
	} {
		for _, by := range []string{"injected", "hook"} {
			t.Run(c.name+"_"+by, func(t *testing.T) {
				fsys := built(t, "a", "abcd")
				f := open(t, fsys, "a", os.O_RDWR)
				if by == "hook" {
					fsys.SetHook(func(op crashfs.Op) crashfs.Fault { return c.fault })
				} else {
					c.fault.At = 2
					fsys.Inject(c.fault)
				}
				n, err := c.do(f)
				if n != c.want.n || !errors.Is(err, c.want.err) {
					t.Errorf("%d, %v, want %d, %v", n, err, c.want.n, c.want.err)
				}
				checkTexts(t, fsys.Clone(), files{"a": c.want.file})
			})
		}
	}
}

func TestFaultOfHandles(t *testing.T) {
	t.Run("close_fails_and_closes", func(t *testing.T) {
		fsys := built(t, "a", "1")
		f := open(t, fsys, "a", os.O_RDONLY)
		fsys.Inject(crashfs.Fault{At: 2, Effect: crashfs.FailBefore})
		checkIs(t, f.Close(), syscall.EIO)
		checkIs(t, f.Close(), os.ErrClosed)
	})
	t.Run("create_done_and_failed", func(t *testing.T) {
		fsys := built(t)
		fsys.Inject(crashfs.Fault{At: 1, Effect: crashfs.FailAfter})
		f, err := fsys.Create("a")
		checkIs(t, err, syscall.EIO)
		if f != nil {
			t.Error("a handle with an error")
		}
		checkTexts(t, fsys, files{"a": ""})
	})
	t.Run("link_done_and_failed", func(t *testing.T) {
		fsys := built(t, "a", "1")
		fsys.Inject(crashfs.Fault{At: 1, Effect: crashfs.FailAfter})
		err := fsys.LinkIfPossible("a", "b")
		checkIs(t, err, syscall.EIO)
		var l *os.LinkError
		if !errors.As(err, &l) || l.Op != "link" || l.Old != "a" || l.New != "b" {
			t.Errorf("%#v", err)
		}
		checkTexts(t, fsys, files{"a": "1", "b": "1"})
	})
	t.Run("open_done_and_failed_leaves_no_handle", func(t *testing.T) {
		fsys := built(t, "a", "12345")
		fsys.SetCapacity(10)
		fsys.Inject(crashfs.Fault{At: 1, Effect: crashfs.FailAfter})
		_, err := fsys.OpenFile("a", os.O_RDWR|os.O_CREATE, 0)
		checkIs(t, err, syscall.EIO)
		check(t, fsys.Remove("a"))
		if free, err := fsys.Free("/"); err != nil || free != 10 {
			t.Errorf("free %d, %v, want 10", free, err)
		}
	})
	t.Run("sync_done_and_failed", func(t *testing.T) {
		fsys := built(t, "a", "1")
		write(t, fsys, "a", "2")
		f := open(t, fsys, "a", os.O_RDWR)
		fsys.Inject(crashfs.Fault{At: len(fsys.Log()) + 1, Effect: crashfs.FailAfter})
		checkIs(t, f.Sync(), syscall.EIO)
		checkStates(t, fsys, files{"a": "2"})
	})
	t.Run("sync_failed_retry_works", func(t *testing.T) {
		fsys := built(t, "a", "1")
		write(t, fsys, "a", "2")
		f := open(t, fsys, "a", os.O_RDWR)
		fsys.Inject(crashfs.Fault{At: len(fsys.Log()) + 1, Effect: crashfs.FailBefore})
		checkIs(t, f.Sync(), syscall.EIO)
		if len(fsys.Pending()) == 0 {
			t.Error("nothing pending after a failed sync")
		}
		check(t, f.Sync())
		checkStates(t, fsys, files{"a": "2"})
	})
}

func TestFaultsOfOp(t *testing.T) {
	type F = crashfs.Fault
	eio := F{Effect: crashfs.FailBefore, Err: syscall.EIO}
	full := F{Effect: crashfs.FailBefore, Err: syscall.ENOSPC}
	done := F{Effect: crashfs.FailAfter, Err: syscall.EIO}
	short := F{Effect: crashfs.Short}
	shortFull := F{Effect: crashfs.Short, Err: syscall.ENOSPC}
	drop := F{Effect: crashfs.DropSync, Err: syscall.EIO}
	for _, c := range []struct {
		op   crashfs.Op
		want []F
	}{
		{crashfs.Op{Kind: crashfs.OpStat}, []F{eio}},
		{crashfs.Op{Kind: crashfs.OpClose}, []F{eio}},
		{crashfs.Op{Kind: crashfs.OpOpen}, []F{eio}},
		{crashfs.Op{Kind: crashfs.OpOpen, Flag: os.O_CREATE}, []F{eio, full, done}},
		{crashfs.Op{Kind: crashfs.OpOpen, Flag: os.O_TRUNC}, []F{eio, done}},
		{crashfs.Op{Kind: crashfs.OpRemove}, []F{eio, done}},
		{crashfs.Op{Kind: crashfs.OpRename}, []F{eio, full, done}},
		{crashfs.Op{Kind: crashfs.OpLink}, []F{eio, full, done}},
		{crashfs.Op{Kind: crashfs.OpRead, Len: 10}, []F{eio, short}},
		{crashfs.Op{Kind: crashfs.OpRead, Len: 1}, []F{eio}},
		{crashfs.Op{Kind: crashfs.OpWrite, Len: 10}, []F{eio, full, short, done, shortFull}},
		{crashfs.Op{Kind: crashfs.OpSync}, []F{eio, full, drop, done}},
		{crashfs.Op{Kind: crashfs.OpSyncAll}, []F{eio, full, drop, done}},
	} {
		if got := c.op.Faults(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.op, got, c.want)
		}
	}
}

func TestRepeat(t *testing.T) {
	failed := func(fault crashfs.Fault) []int {
		fsys := built(t, "a", "1")
		fsys.Inject(fault)
		_, _ = fsys.Stat("a")               // 1
		_ = fsys.Chmod("a", 0o600)          // 2
		_, _ = fsys.Stat("a")               // 3
		_ = fsys.Chmod("a", 0o600)          // 4
		_, _, _ = fsys.LstatIfPossible("a") // 5
		var ns []int
		for _, op := range fsys.Log() {
			if op.Err != nil {
				ns = append(ns, op.N)
			}
		}
		return ns
	}
	for _, c := range []struct {
		repeat crashfs.Repeat
		want   []int
	}{
		{crashfs.Once, []int{2}},
		{crashfs.SameKind, []int{2, 4}},
		{crashfs.Forever, []int{2, 3, 4, 5}},
	} {
		got := failed(crashfs.Fault{At: 2, Effect: crashfs.FailBefore, Repeat: c.repeat})
		if !slices.Equal(got, c.want) {
			t.Errorf("repeat %v struck %v, want %v", c.repeat, got, c.want)
		}
	}
}

func TestPowerCut(t *testing.T) {
	fsys := built(t, "a", "1")
	f := open(t, fsys, "a", os.O_RDWR)
	_, err := f.WriteString("2")
	check(t, err)
	fsys.CutPower()
	for name, err := range map[string]error{
		"close":  f.Close(),
		"sync":   f.Sync(),
		"remove": fsys.Remove("a"),
		"rename": fsys.Rename("a", "b"),
		"all":    fsys.SyncAll(),
	} {
		if !errors.Is(err, crashfs.ErrPowerCut) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(fsys.Log()); n != 2 {
		t.Errorf("%d operations in the log", n)
	}
	checkStates(t, fsys, files{"a": "1"}, files{"a": "2"})
}

func TestHookMayLook(t *testing.T) {
	fsys := built(t)
	var seen []int
	fsys.SetHook(func(op crashfs.Op) crashfs.Fault {
		n := 0
		for range fsys.CrashStates(8) {
			n++
		}
		seen = append(seen, n)
		return crashfs.Fault{}
	})
	check(t, fsys.Mkdir("a", 0o755))
	check(t, fsys.Mkdir("b", 0o755))
	check(t, fsys.SyncAll())
	_, _ = fsys.Stat("a")
	if want := []int{1, 2, 4, 1}; !slices.Equal(seen, want) {
		t.Errorf("states before each operation: %v, want %v", seen, want)
	}
}

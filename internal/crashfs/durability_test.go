package crashfs_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/crashfs"
)

type files = map[string]string

func TestDurability(t *testing.T) {
	for _, c := range []struct {
		name   string
		before []string // see built
		run    func(t *testing.T, fsys *crashfs.FS)
		want   []files // all states that may be left
	}{
		{
			name: "unsynced_create_lost",
			run:  func(t *testing.T, fsys *crashfs.FS) { write(t, fsys, "a", "1") },
			want: []files{{}, {"a": ""}, {"a": "\x00"}, {"a": "1"}},
		}, {
			name: "synced_file_unsynced_name",
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "a", "1")
				sync(t, fsys, "a")
			},
			want: []files{{}, {"a": "1"}},
		}, {
			name: "synced_name_unsynced_file",
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "a", "1")
				sync(t, fsys, "/")
			},
			want: []files{{"a": ""}, {"a": "\x00"}, {"a": "1"}},
		}, {
			name: "synced_both_stays",
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "a", "1")
				sync(t, fsys, "a")
				sync(t, fsys, "/")
			},
			want: []files{{"a": "1"}},
		}, {
			name:   "unlink_may_come_back",
			before: []string{"a", "1"},
			run:    func(t *testing.T, fsys *crashfs.FS) { check(t, fsys.Remove("a")) },
			want:   []files{{}, {"a": "1"}},
		}, {
			name:   "unlink_synced_stays",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Remove("a"))
				sync(t, fsys, "/")
			},
			want: []files{{}},
		}, {
			name:   "rename_atomic",
			before: []string{"d/a", "1", "e/b", "2"},
			run:    func(t *testing.T, fsys *crashfs.FS) { check(t, fsys.Rename("d/a", "e/b")) },
			want:   []files{{"d": "/", "e": "/", "d/a": "1", "e/b": "2"}, {"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name:   "rename_source_sync_insufficient",
			before: []string{"d/a", "1", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Rename("d/a", "e/b"))
				sync(t, fsys, "d")
			},
			want: []files{{"d": "/", "e": "/", "d/a": "1"}, {"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name:   "rename_destination_sync_suffices",
			before: []string{"d/a", "1", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Rename("d/a", "e/b"))
				sync(t, fsys, "e")
			},
			want: []files{{"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name:   "rename_of_unsynced_file_may_empty_it",
			before: []string{"a", "old"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "tmp", "new")
				check(t, fsys.Rename("tmp", "a"))
				sync(t, fsys, "/")
			},
			want: []files{{"a": "new"}, {"a": ""}, {"a": "\x00\x00\x00"}},
		}, {
			name:   "replace_by_the_book",
			before: []string{"a", "old"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "tmp", "new")
				sync(t, fsys, "tmp")
				check(t, fsys.Rename("tmp", "a"))
			},
			want: []files{{"a": "old"}, {"a": "old", "tmp": "new"}, {"a": "new"}},
		}, {
			name: "synced_rename_takes_creation_along",
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("d", 0o755))
				check(t, fsys.Mkdir("e", 0o755))
				sync(t, fsys, "/")
				write(t, fsys, "d/a", "1")
				sync(t, fsys, "d/a")
				check(t, fsys.Rename("d/a", "e/b"))
				sync(t, fsys, "e")
			},
			want: []files{{"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name: "synced_rename_out_of_unsynced_directory",
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("e", 0o755))
				sync(t, fsys, "/")
				check(t, fsys.Mkdir("d", 0o755))
				write(t, fsys, "d/a", "1")
				sync(t, fsys, "d/a")
				sync(t, fsys, "d")
				check(t, fsys.Rename("d/a", "e/b"))
				sync(t, fsys, "e")
			},
			want: []files{{"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name: "child_lost_with_unsynced_directory",
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("d", 0o755))
				write(t, fsys, "d/a", "1")
				sync(t, fsys, "d/a")
				sync(t, fsys, "d")
			},
			want: []files{{}, {"d": "/", "d/a": "1"}},
		}, {
			name:   "file_not_lost_with_unsynced_directory",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("d", 0o755))
				check(t, fsys.Rename("a", "d/a"))
				sync(t, fsys, "d")
			},
			want: []files{{"a": "1"}, {"d": "/", "d/a": "1"}},
		}, {
			name: "name_ops_in_order",
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("a", 0o755))
				check(t, fsys.Rename("a", "b"))
				check(t, fsys.Mkdir("a", 0o755))
			},
			want: []files{{}, {"a": "/"}, {"b": "/"}, {"a": "/", "b": "/"}},
		}, {
			name:   "rmdir_after_contents",
			before: []string{"d/a", "1", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Rename("d/a", "e/a"))
				check(t, fsys.Remove("d"))
				sync(t, fsys, "/")
			},
			want: []files{{"e": "/", "e/a": "1"}},
		}, {
			name:   "directory_moves_in_order",
			before: []string{"x/", "y/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Rename("x", "y/x"))
				check(t, fsys.Rename("y/x", "x2"))
				check(t, fsys.Rename("y", "x2/y"))
				sync(t, fsys, "x2")
			},
			want: []files{{"x2": "/", "x2/y": "/"}},
		}, {
			name:   "directory_move_synced_after_unsynced_one",
			before: []string{"x/", "y/", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("d", 0o755))
				check(t, fsys.Rename("x", "d/x"))
				sync(t, fsys, "d")
				check(t, fsys.Rename("y", "e/y"))
				sync(t, fsys, "e")
			},
			want: []files{{"d": "/", "d/x": "/", "e": "/", "e/y": "/"}},
		}, {
			name:   "writes_in_any_order",
			before: []string{"a", "...."},
			run: func(t *testing.T, fsys *crashfs.FS) {
				f := open(t, fsys, "a", os.O_RDWR)
				_, err := f.WriteAt([]byte("1"), 1)
				check(t, err)
				_, err = f.WriteAt([]byte("2"), 2)
				check(t, err)
			},
			want: []files{{"a": "...."}, {"a": ".1.."}, {"a": "..2."}, {"a": ".12."}},
		}, {
			name:   "truncate_lost_or_kept",
			before: []string{"a", "1234"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				f := open(t, fsys, "a", os.O_RDWR)
				check(t, f.Truncate(2))
			},
			want: []files{{"a": "1234"}, {"a": "12"}},
		}, {
			name:   "o_trunc_lost_write_kept",
			before: []string{"a", "1234"},
			run:    func(t *testing.T, fsys *crashfs.FS) { write(t, fsys, "a", "56") },
			want:   []files{{"a": "1234"}, {"a": ""}, {"a": "5634"}, {"a": "56"}, {"a": "\x00\x00"}},
		}, {
			name:   "link_may_be_lost",
			before: []string{"a", "1", "d/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "d/b"))
				sync(t, fsys, "a")
				sync(t, fsys, "d/b")
				sync(t, fsys, "/")
			},
			want: []files{{"a": "1", "d": "/"}, {"a": "1", "d": "/", "d/b": "1"}},
		}, {
			name:   "link_synced_stays",
			before: []string{"a", "1", "d/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "d/b"))
				sync(t, fsys, "d")
			},
			want: []files{{"a": "1", "d": "/", "d/b": "1"}},
		}, {
			name:   "link_synced_with_all_stays",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "b"))
				check(t, fsys.SyncAll())
			},
			want: []files{{"a": "1", "b": "1"}},
		}, {
			name:   "link_lost_with_unsynced_directory",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.Mkdir("d", 0o755))
				check(t, fsys.LinkIfPossible("a", "d/b"))
				sync(t, fsys, "d")
			},
			want: []files{{"a": "1"}, {"a": "1", "d": "/", "d/b": "1"}},
		}, {
			name:   "synced_link_takes_creation_along",
			before: []string{"d/", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "d/a", "1")
				sync(t, fsys, "d/a")
				check(t, fsys.LinkIfPossible("d/a", "e/b"))
				sync(t, fsys, "e")
			},
			want: []files{{"d": "/", "d/a": "1", "e": "/", "e/b": "1"}},
		}, {
			name:   "synced_link_of_unsynced_content",
			before: []string{"d/", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "d/a", "1")
				check(t, fsys.LinkIfPossible("d/a", "e/b"))
				sync(t, fsys, "e")
			},
			want: []files{
				{"d": "/", "d/a": "", "e": "/", "e/b": ""},
				{"d": "/", "d/a": "\x00", "e": "/", "e/b": "\x00"},
				{"d": "/", "d/a": "1", "e": "/", "e/b": "1"},
			},
		}, {
			name:   "link_of_unsynced_file_whose_name_goes",
			before: []string{"d/", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				write(t, fsys, "d/a", "1")
				sync(t, fsys, "d/a")
				check(t, fsys.LinkIfPossible("d/a", "e/b"))
				check(t, fsys.Remove("d/a"))
			},
			want: []files{
				{"d": "/", "e": "/"},
				{"d": "/", "d/a": "1", "e": "/"},
				{"d": "/", "d/a": "1", "e": "/", "e/b": "1"},
				{"d": "/", "e": "/", "e/b": "1"},
			},
		}, {
			name:   "linked_inode_survives_unlink_of_first_name",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "b"))
				sync(t, fsys, "/")
				f := open(t, fsys, "b", os.O_RDWR)
				check(t, fsys.Remove("a"))
				sync(t, fsys, "/")
				_, err := f.WriteString("2")
				check(t, err)
			},
			want: []files{{"b": "1"}, {"b": "2"}},
		}, {
			name:   "unlink_kept_write_through_other_name_kept",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "b"))
				sync(t, fsys, "/")
				f := open(t, fsys, "b", os.O_RDWR)
				_, err := f.WriteString("2")
				check(t, err)
				check(t, fsys.Remove("a"))
			},
			want: []files{{"a": "1", "b": "1"}, {"a": "2", "b": "2"}, {"b": "1"}, {"b": "2"}},
		}, {
			name:   "first_name_unlinked_without_a_sync_of_the_second",
			before: []string{"d/a", "1", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("d/a", "e/b"))
				check(t, fsys.Remove("d/a"))
				sync(t, fsys, "d")
			},
			want: []files{{"d": "/", "e": "/"}, {"d": "/", "e": "/", "e/b": "1"}},
		}, {
			name:   "synced_rename_takes_link_along",
			before: []string{"a", "1", "d/", "e/"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "d/b"))
				check(t, fsys.Rename("d/b", "e/c"))
				sync(t, fsys, "e")
				check(t, fsys.Remove("a"))
				sync(t, fsys, "/")
				f := open(t, fsys, "e/c", os.O_RDWR)
				_, err := f.WriteString("2")
				check(t, err)
			},
			want: []files{{"d": "/", "e": "/", "e/c": "1"}, {"d": "/", "e": "/", "e/c": "2"}},
		}, {
			name:   "last_of_two_names_replaced",
			before: []string{"a", "1", "c", "3"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "b"))
				check(t, fsys.Remove("a"))
				check(t, fsys.SyncAll())
				check(t, fsys.Rename("c", "b"))
			},
			want: []files{{"b": "1", "c": "3"}, {"b": "3"}},
		}, {
			name:   "writes_through_one_name_are_seen_through_the_other",
			before: []string{"a", "1"},
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.LinkIfPossible("a", "b"))
				sync(t, fsys, "/")
				f := open(t, fsys, "b", os.O_RDWR)
				_, err := f.WriteString("2")
				check(t, err)
				sync(t, fsys, "a") // of the one inode
			},
			want: []files{{"a": "2", "b": "2"}},
		}, {
			name: "sync_all",
			run: func(t *testing.T, fsys *crashfs.FS) {
				check(t, fsys.MkdirAll("d/e", 0o755))
				write(t, fsys, "d/e/a", "1")
				check(t, fsys.SyncAll())
			},
			want: []files{{"d": "/", "d/e": "/", "d/e/a": "1"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := built(t, c.before...)
			c.run(t, fsys)
			live := texts(t, fsys)
			checkStates(t, fsys, c.want...)
			checkTexts(t, fsys, live)
		})
	}
}

func TestCrashKeeping(t *testing.T) {
	t.Run("create_lost_rename_kept", func(t *testing.T) {
		fsys := built(t)
		write(t, fsys, "a", "1")
		check(t, fsys.Rename("a", "b"))
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Rename)), files{"b": ""})
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Create)), files{"a": ""})
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Create, crashfs.Write)), files{"a": "1"})
	})
	t.Run("parent_lost_child_kept", func(t *testing.T) {
		fsys := built(t)
		check(t, fsys.Mkdir("d", 0o755))
		write(t, fsys, "d/a", "1")
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Create, crashfs.Write)), files{})
	})
	t.Run("parent_kept_child_synced", func(t *testing.T) {
		fsys := built(t)
		check(t, fsys.Mkdir("d", 0o755))
		write(t, fsys, "d/a", "1")
		sync(t, fsys, "d")
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Mkdir)), files{"d": "/", "d/a": ""})
	})
	t.Run("moved_under_lost_parent_name_reused", func(t *testing.T) {
		fsys := built(t, "a", "1")
		check(t, fsys.Mkdir("d", 0o755))
		check(t, fsys.Rename("a", "d/a"))
		write(t, fsys, "a", "2")
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Rename, crashfs.Create, crashfs.Write)), files{"a": "1"})
	})
	t.Run("moved_under_lost_parent_then_rmdir", func(t *testing.T) {
		fsys := built(t, "d/a", "1")
		check(t, fsys.Mkdir("e", 0o755))
		check(t, fsys.Rename("d/a", "e/a"))
		check(t, fsys.Remove("d"))
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Rename, crashfs.Rmdir)), files{"d": "/", "d/a": "1"})
	})
	t.Run("written_without_name", func(t *testing.T) {
		fsys := built(t, "a", "1")
		f := open(t, fsys, "a", os.O_RDWR)
		check(t, fsys.Remove("a"))
		sync(t, fsys, "/")
		_, err := f.WriteString("2")
		check(t, err)
		if pending := fsys.Pending(); len(pending) > 0 {
			t.Errorf("pending: %v", pending)
		}
	})
	t.Run("attributes", func(t *testing.T) {
		fsys := built(t, "a", "1")
		then := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
		check(t, fsys.Chtimes("a", then, then))
		check(t, fsys.Chmod("a", 0o600))
		for _, c := range []struct {
			fsys *crashfs.FS
			kept bool
		}{{fsys.CrashKeeping(lose), false}, {fsys.CrashKeeping(keep), true}} {
			info, err := c.fsys.Stat("a")
			check(t, err)
			if kept := info.ModTime().Equal(then) && info.Mode() == 0o600; kept != c.kept {
				t.Errorf("%v, want changes kept: %v", info, c.kept)
			}
		}
		sync(t, fsys, "a")
		if pending := fsys.Pending(); len(pending) > 0 {
			t.Errorf("pending after sync: %v", pending)
		}
	})
	t.Run("handles_see_nothing_of_it", func(t *testing.T) {
		fsys := built(t, "a", "1")
		f := open(t, fsys, "a", os.O_RDWR)
		left := fsys.CrashKeeping(keep)
		_, err := f.WriteString("2")
		check(t, err)
		checkTexts(t, left, files{"a": "1"})
		checkTexts(t, fsys, files{"a": "2"})
	})
	t.Run("both_names_are_one_inode_after_a_crash", func(t *testing.T) {
		fsys := built(t, "a", "1", "d/")
		check(t, fsys.LinkIfPossible("a", "d/b"))
		for range 2 { // also when the crash found it so
			fsys = fsys.CrashKeeping(keep)
			checkLinks(t, fsys, "a", 2)
			write(t, fsys, "a", "22")
			checkTexts(t, fsys, files{"a": "22", "d": "/", "d/b": "22"})
		}
		fsys = fsys.Clone()
		check(t, fsys.Remove("a"))
		checkTexts(t, fsys.CrashKeeping(lose), files{"a": "22", "d": "/", "d/b": "22"})
		left := fsys.CrashKeeping(keep)
		checkTexts(t, left, files{"d": "/", "d/b": "22"})
		checkLinks(t, left, "d/b", 1)
	})
	t.Run("pending_link", func(t *testing.T) {
		fsys := built(t, "a", "1")
		check(t, fsys.LinkIfPossible("a", "b"))
		want := crashfs.Effect{Op: 1, Kind: crashfs.Link, Path: "a", To: "b"}
		if got := fsys.Pending(); len(got) != 1 || got[0] != want || got[0].String() != "#1 link a -> b" {
			t.Errorf("pending: %v, want %v", got, want)
		}
	})
	t.Run("create_lost_link_kept", func(t *testing.T) {
		fsys := built(t)
		write(t, fsys, "a", "1")
		check(t, fsys.LinkIfPossible("a", "b"))
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Link)), files{"a": "", "b": ""})
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Create, crashfs.Write)), files{"a": "1"})
	})
	t.Run("link_lost_name_replaced", func(t *testing.T) {
		fsys := built(t, "a", "1", "c", "3")
		check(t, fsys.LinkIfPossible("a", "b"))
		check(t, fsys.Rename("c", "b"))
		checkTexts(t, fsys.CrashKeeping(only(crashfs.Rename)), files{"a": "1", "b": "3"})
	})
	t.Run("link_lost_with_its_directory", func(t *testing.T) {
		fsys := built(t, "a", "1")
		before := ctime(t, fsys, "a")
		check(t, fsys.Mkdir("d", 0o755))
		check(t, fsys.LinkIfPossible("a", "d/b"))
		left := fsys.CrashKeeping(only(crashfs.Link))
		checkTexts(t, left, files{"a": "1"})
		checkLinks(t, left, "a", 1)
		if after := ctime(t, left, "a"); !after.Equal(before) {
			t.Errorf("ctime %v of a lost link, want %v", after, before)
		}
	})
	t.Run("same_inodes", func(t *testing.T) {
		fsys := built(t, "d/a", "1")
		before, err := fsys.Stat("d/a")
		check(t, err)
		check(t, fsys.Rename("d/a", "b"))
		after, err := fsys.CrashKeeping(keep).Stat("b")
		check(t, err)
		if !crashfs.SameFile(before, after) {
			t.Errorf("inode %v became %v", crashfs.InoOf(before), crashfs.InoOf(after))
		}
	})
}

func TestTornWrite(t *testing.T) {
	const size = 1500 // of a write at 100: sectors 0 to 3
	for _, c := range []struct {
		name     string
		fate     crashfs.Fate
		from, to int // what is written of the file
		size     int
	}{
		{"torn_write_512", crashfs.Torn(1), 100, 512, 512},
		{"torn_write_1024", crashfs.Torn(2), 100, 1024, 1024},
		{"torn_tail", crashfs.TornTail(3), 1536, 1600, 1600},
		{"torn_after_end", crashfs.Torn(4), 100, 1600, 1600},
		{"torn_tail_after_end", crashfs.TornTail(4), 0, 0, 200},
		{"zeroed", crashfs.Zeroed, 0, 0, 1600},
		{"lost", crashfs.Lost, 0, 0, 200},
		{"kept", crashfs.Kept, 100, 1600, 1600},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := built(t, "a", strings.Repeat("o", 200))
			f := open(t, fsys, "a", os.O_RDWR)
			_, err := f.WriteAt([]byte(strings.Repeat("n", size)), 100)
			check(t, err)
			left := fsys.CrashKeeping(func(int, crashfs.Effect) crashfs.Fate { return c.fate })
			got, err := afero.ReadFile(left, "a")
			check(t, err)
			want := make([]byte, c.size)
			copy(want, strings.Repeat("o", 200))
			copy(want[c.from:c.to], strings.Repeat("n", size))
			if string(got) != string(want) {
				t.Errorf("%s: got %q, want %q", c.fate, got, want)
			}
		})
	}
}

func TestDroppedSync(t *testing.T) {
	dropping := func(t *testing.T, fsys *crashfs.FS, name string) {
		t.Helper()
		f := open(t, fsys, name, os.O_RDONLY)
		fsys.Inject(crashfs.Fault{At: len(fsys.Log()) + 1, Effect: crashfs.DropSync})
		if err := f.Sync(); err == nil {
			t.Error("no error")
		}
		check(t, f.Sync())
	}
	t.Run("fsync_failed_drops_data", func(t *testing.T) {
		fsys := built(t, "a", "12345")
		f := open(t, fsys, "a", os.O_RDWR)
		_, err := f.WriteAt([]byte("xxx"), 3)
		check(t, err)
		dropping(t, fsys, "a")
		checkTexts(t, fsys, files{"a": "123xxx"})
		checkStates(t, fsys, files{"a": "12345\x00"})

		_, err = f.WriteAt([]byte("y"), 0)
		check(t, err)
		check(t, f.Sync())
		checkTexts(t, fsys, files{"a": "y23xxx"})
		checkStates(t, fsys, files{"a": "y2345\x00"})
	})
	t.Run("written_again", func(t *testing.T) {
		fsys := built(t, "a", "1")
		f := open(t, fsys, "a", os.O_RDWR)
		for range 2 {
			_, err := f.WriteAt([]byte("2"), 0)
			check(t, err)
			fsys.Inject(crashfs.Fault{At: 3, Effect: crashfs.DropSync})
			_ = f.Sync()
		}
		checkStates(t, fsys, files{"a": "2"})
	})
	t.Run("directory", func(t *testing.T) {
		fsys := built(t)
		check(t, fsys.Mkdir("d", 0o755))
		dropping(t, fsys, "/")
		checkStates(t, fsys, files{}, files{"d": "/"})
		check(t, fsys.SyncAll())
		checkStates(t, fsys, files{}, files{"d": "/"})
		check(t, fsys.Rename("d", "e"))
		sync(t, fsys, "/")
		checkStates(t, fsys, files{"e": "/"})
	})
	t.Run("sync_all", func(t *testing.T) {
		fsys := built(t, "a", "1")
		write(t, fsys, "a", "22")
		fsys.Inject(crashfs.Fault{At: len(fsys.Log()) + 1, Effect: crashfs.DropSync})
		if err := fsys.SyncAll(); err == nil {
			t.Error("no error")
		}
		check(t, fsys.SyncAll())
		checkTexts(t, fsys, files{"a": "22"})
		checkStates(t, fsys, files{"a": "\x00\x00"})
	})
}

func ctime(t *testing.T, fsys *crashfs.FS, name string) time.Time {
	t.Helper()
	info, err := fsys.Stat(name)
	check(t, err)
	return crashfs.CtimeOf(info)
}

func TestChangeTimeAfterCrash(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(fsys *crashfs.FS) error
		sync string // makes it durable
	}{
		{"write", func(fsys *crashfs.FS) error { return afero.WriteFile(fsys, "a", []byte("2"), 0) }, "a"},
		{"chmod", func(fsys *crashfs.FS) error { return fsys.Chmod("a", 0o600) }, "a"},
		{"chtimes", func(fsys *crashfs.FS) error { return fsys.Chtimes("a", time.Time{}, time.Unix(1, 0)) }, "a"},
		{"link", func(fsys *crashfs.FS) error { return fsys.LinkIfPossible("a", "c") }, "/"},
		{"unlink", func(fsys *crashfs.FS) error { return fsys.Remove("b") }, "/"},
		{"rename", func(fsys *crashfs.FS) error { return fsys.Rename("b", "c") }, "/"},
		{"replace", func(fsys *crashfs.FS) error { return fsys.Rename("other", "b") }, "/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := built(t, "a", "1", "other", "")
			check(t, fsys.LinkIfPossible("a", "b"))
			fsys = fsys.Clone()
			before := ctime(t, fsys, "a")
			check(t, c.do(fsys))
			after := ctime(t, fsys, "a")
			if !after.After(before) {
				t.Errorf("ctime %v, %v before", after, before)
			}
			if got := ctime(t, fsys.CrashKeeping(lose), "a"); !got.Equal(before) {
				t.Errorf("lost: ctime %v, want %v", got, before)
			}
			if got := ctime(t, fsys.CrashKeeping(keep), "a"); !got.Equal(after) {
				t.Errorf("kept: ctime %v, want %v", got, after)
			}
			sync(t, fsys, c.sync)
			if got := ctime(t, fsys.CrashKeeping(lose), "a"); !got.Equal(after) {
				t.Errorf("synced: ctime %v, want %v", got, after)
			}
		})
	}
	t.Run("one_of_two_kept", func(t *testing.T) {
		fsys := built(t, "a", "1")
		check(t, fsys.Chmod("a", 0o600))
		middle := ctime(t, fsys, "a")
		check(t, fsys.Rename("a", "b"))
		if got := ctime(t, fsys.CrashKeeping(only(crashfs.Attrs)), "a"); !got.Equal(middle) {
			t.Errorf("rename lost: ctime %v, want %v", got, middle)
		}
		want := ctime(t, fsys, "b")
		if got := ctime(t, fsys.CrashKeeping(only(crashfs.Rename)), "b"); !got.Equal(want) {
			t.Errorf("chmod lost: ctime %v, want %v", got, want)
		}
	})
	t.Run("not_what_chtimes_sets", func(t *testing.T) {
		now := time.Date(2026, 4, 6, 18, 0, 0, 0, time.UTC)
		fsys := crashfs.New(crashfs.Options{Now: func() time.Time { return now }})
		write(t, fsys, "a", "1")
		now = now.Add(time.Hour)
		check(t, fsys.Chtimes("a", time.Unix(1, 0), time.Unix(1, 0)))
		if got := ctime(t, fsys, "a"); !got.Equal(now) {
			t.Errorf("ctime %v, want %v", got, now)
		}
	})
}

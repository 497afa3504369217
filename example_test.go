package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// The whole of it: back up, prove it, lose the data, put it back.
func Example() {
	ctx := context.Background()
	fsys := exampleService() // a service's state, on a file system in memory
	store, err := backup.New(backup.Config{
		Dir:     "/srv/backups",
		Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: "/srv/data/app.db"}},
		Fs:      fsys, // without it: the operating system's
	})
	if err != nil {
		log.Fatal(err)
	}
	snap, err := store.Create(ctx, nil) // while the service keeps writing
	if err != nil {
		log.Fatal(err)
	}
	report, err := store.Validate(ctx, snap.Stamp, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("valid:", report.Valid)

	exampleExec(fsys, "/srv/data/app.db", "DELETE FROM notes")
	// The service is stopped now.
	restored, err := store.Restore(ctx, snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("restored:", restored.Restored, "sound:", restored.IntegrityOK)
	fmt.Println("notes:", exampleQuery(fsys, "/srv/data/app.db", "SELECT body FROM notes"))
	// Output:
	// valid: true
	// restored: [db] sound: true
	// notes: baseline
}

// Mistakes in the Config show before anything is touched, and all at once.
func ExampleNew() {
	_, err := backup.New(backup.Config{
		Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: "/srv/data/app.db"},
			{Name: "db", Kind: backup.File, Path: "/srv/config/registry.json"},
		},
		Fs: afero.NewMemMapFs(),
	})
	fmt.Println(err)
	// Output:
	// backup: config: dir is empty: name the directory to keep snapshots in
	// source 1, "db": the name is taken by source 0
}

// A copy that fails validation is no error of Create: look at the snapshot's.
func ExampleStore_Create() {
	store, _ := exampleStore()
	snap, err := store.Create(context.Background(), &backup.CreateOptions{
		Labels: map[string]string{"reason": "before the upgrade"},
		Pin:    true, // Cleanup never removes it
	})
	if err != nil {
		log.Fatal(err) // there is no snapshot
	}
	if err := snap.Err(); err != nil {
		log.Fatal(err) // there is one, but it cannot be relied on
	}
	fmt.Println(snap.Stamp, snap.Origin, snap.Pinned, snap.Labels)
	for _, src := range snap.Sources {
		fmt.Printf("%s captured=%v path=%q\n", src.Name, src.Captured, src.Path)
	}
	// Output:
	// 20260411T100000Z manual true map[reason:before the upgrade]
	// db captured=true path="db/app.db"
	// config captured=true path="config/registry.json"
	// chroma captured=false path=""
}

// A source that is OnRequest is captured when Include names it.
func ExampleStore_Create_include() {
	store, _ := exampleStore()
	snap, err := store.Create(context.Background(), &backup.CreateOptions{Include: []string{"chroma"}})
	if err != nil {
		log.Fatal(err)
	}
	chroma, _ := snap.Source("chroma")
	fmt.Println(chroma.Captured, chroma.Files)
	// Output: true 2
}

// Damaged and unfinished snapshots are listed too.
func ExampleStore_List() {
	ctx := context.Background()
	store, fsys := exampleStore()
	for range 2 {
		if _, err := store.Create(ctx, nil); err != nil {
			log.Fatal(err)
		}
	}
	// What a Create leaves that was killed: a directory without metadata.
	if err := fsys.MkdirAll("/srv/backups/snapshots/20260411T090000Z/db", 0o700); err != nil {
		log.Fatal(err)
	}
	snapshots, err := store.List(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, snap := range snapshots {
		fmt.Println(snap.Stamp, snap.Validated, snap.Problems)
	}
	// Output:
	// 20260411T100001Z true []
	// 20260411T100000Z true []
	// 20260411T090000Z false [metadata_missing: "backup-metadata.json": unfinished, interrupted or half deleted]
}

// Damage is in the Report; the error is for a validation that could not be
// finished.
func ExampleStore_Validate() {
	ctx := context.Background()
	store, fsys := exampleStore()
	snap, err := store.Create(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	registry := "/srv/backups/snapshots/" + snap.Stamp + "/config/registry.json"
	if err := afero.WriteFile(fsys, registry, []byte(`{"projects": ["pX"]}`), 0o600); err != nil { // one byte differs
		log.Fatal(err)
	}

	report, err := store.Validate(ctx, snap.Stamp, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("valid:", report.Valid, "databases:", report.DBOK)
	for _, p := range report.Problems {
		fmt.Println(p.Code, p.Source, p.Path)
	}
	fmt.Println(errors.Is(report.Err(), backup.CodeChecksumMismatch))
	// Output:
	// valid: false databases: true
	// checksum_mismatch config config/registry.json
	// true
}

// A snapshot that is not there is a Report too, not an error.
func ExampleStore_Validate_missing() {
	store, _ := exampleStore()
	report, err := store.Validate(context.Background(), "20200101T000000Z", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Exists, errors.Is(report.Err(), fs.ErrNotExist), report.Err())
	// Output: false true snapshot_directory_missing
}

// Restore takes a safety snapshot of what it replaces. To restore that is to
// undo it.
func ExampleStore_Restore() {
	ctx := context.Background()
	store, fsys := exampleStore()
	snap, err := store.Create(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	exampleExec(fsys, "/srv/data/app.db", "UPDATE notes SET body = 'mutation'")
	notes := func() string { return exampleQuery(fsys, "/srv/data/app.db", "SELECT body FROM notes") }

	_, err = store.Restore(ctx, snap.Stamp, nil)
	fmt.Println("refused:", errors.Is(err, backup.ErrNotConfirmed))

	// Stop the service, then confirm it.
	confirmed := &backup.RestoreOptions{ConfirmServiceStopped: true}
	restored, err := store.Restore(ctx, snap.Stamp, confirmed)
	if err != nil {
		log.Fatal(err) // everything is as it was before
	}
	fmt.Println(restored.Restored, restored.IntegrityOK, notes())

	undone, err := store.Restore(ctx, restored.SafetyStamp, confirmed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(undone.Restored, undone.IntegrityOK, notes())
	// Output:
	// refused: true
	// [db config] true baseline
	// [db config] true mutation
}

// Call Recover whenever the service starts, before it opens its databases.
func ExampleStore_Recover() {
	store, _ := exampleStore()
	recovery, err := store.Recover(context.Background())
	if err != nil {
		log.Fatal(err) // do not start: the state may be half replaced
	}
	fmt.Println(recovery.Outcome)
	// Output: nothing_pending
}

// Cleanup only says what it would do, unless it is confirmed.
func ExampleStore_Cleanup() {
	ctx := context.Background()
	store, _ := exampleStore()
	for range 3 {
		if _, err := store.Create(ctx, nil); err != nil {
			log.Fatal(err)
		}
	}
	keepOne := &backup.Retention{Last: 1}
	cleanup, err := store.Cleanup(ctx, &backup.CleanupOptions{Retention: keepOne})
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range cleanup.Decisions {
		fmt.Println(d.Stamp, d.Keep, d.Reasons)
	}
	fmt.Println("would delete:", cleanup.WouldDelete)

	cleanup, err = store.Cleanup(ctx, &backup.CleanupOptions{Retention: keepOne, Confirm: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("deleted:", cleanup.Deleted, "kept:", cleanup.Kept)
	// Output:
	// 20260411T100002Z true [last 1 newest good]
	// 20260411T100001Z false [no rule keeps it]
	// 20260411T100000Z false [no rule keeps it]
	// would delete: 2
	// deleted: 2 kept: 1
}

// Delete removes what it is told to, pinned or not.
func ExampleStore_Delete() {
	ctx := context.Background()
	store, _ := exampleStore()
	snap, err := store.Create(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Delete(ctx, snap.Stamp); err != nil {
		log.Fatal(err)
	}
	err = store.Delete(ctx, snap.Stamp)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	err = store.Delete(ctx, "../data")
	fmt.Println(errors.Is(err, backup.ErrInvalidStamp))
	// Output:
	// true
	// true
}

// Plan is a pure function: ask it what a retention would do before trusting
// it with anything.
func ExampleRetention_Plan() {
	now := time.Date(2026, 4, 12, 18, 0, 0, 0, time.UTC)
	var snapshots []backup.Snapshot
	for age := range 4 { // one at noon of each day; the 12th of April is a Sunday
		at := now.Add(-6*time.Hour).AddDate(0, 0, -age)
		snapshots = append(snapshots, backup.Snapshot{
			Stamp: at.Format("20060102T150405Z"), CreatedAt: at, HasMetadata: true, Validated: true,
		})
	}
	snapshots[3].Pinned = true
	retention := backup.Retention{Daily: 2, Weekly: 1}
	for _, d := range retention.Plan(snapshots, now, nil) {
		fmt.Println(d.Stamp, d.Keep, strings.Join(d.Reasons, "; "))
	}
	// Output:
	// 20260412T120000Z true daily 2026-04-12; weekly 2026-04-12; newest good
	// 20260411T120000Z true daily 2026-04-11
	// 20260410T120000Z false no rule keeps it
	// 20260409T120000Z true pinned
}

// OpenDB gives tests a database in memory. In WAL mode it wants exclusive
// locking, and to be closed before Create.
func ExampleOpenDB() {
	fsys := afero.NewMemMapFs()
	db, err := backup.OpenDB(fsys, "/app.db")
	if err != nil {
		log.Fatal(err)
	}
	err = db.Exec(`PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;
		CREATE TABLE notes (body); INSERT INTO notes VALUES ('baseline')`)
	if err := errors.Join(err, db.Close()); err != nil {
		log.Fatal(err)
	}
	store, err := backup.New(backup.Config{
		Dir:     "/backups",
		Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: "/app.db"}},
		Fs:      fsys,
	})
	if err != nil {
		log.Fatal(err)
	}
	snap, err := store.Create(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(snap.Validated, snap.Problems)
	// Output: true []
}

// A host's own test of every copy, and a way to hold off writers that SQLite
// knows nothing of.
func ExampleSource() {
	fsys := exampleService()
	var ingestion sync.Mutex // held by whoever writes to the vector store
	store, err := backup.New(backup.Config{
		Dir: "/srv/backups",
		Fs:  fsys,
		Sources: []backup.Source{{
			Name: "db", Kind: backup.Database, Path: "/srv/data/app.db",
			Check: func(ctx context.Context, conn *sqlite3.Conn) error {
				stmt, _, err := conn.Prepare("SELECT count(*) FROM notes WHERE body = ''")
				if err != nil {
					return err
				}
				defer stmt.Close()
				if stmt.Step() && stmt.ColumnInt(0) > 0 {
					return errors.New("there are empty notes")
				}
				return stmt.Err()
			},
		}, {
			Name: "chroma", Kind: backup.Tree, Path: "/srv/chroma",
			Quiesce: func(ctx context.Context) (func(), error) {
				ingestion.Lock()
				return ingestion.Unlock, nil
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	exampleExec(fsys, "/srv/data/app.db", "INSERT INTO notes VALUES ('')")
	snap, err := store.Create(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(snap.Validated, snap.Problems)
	// Output: false [check_failed: "db/app.db": there are empty notes]
}

// The endpoints with which a host offers backups to its administrators.
func Example_adminEndpoints() {
	store, fsys := exampleStore()
	admin := adminBackup(store, []string{"chroma"})
	call := func(method, path, body string) (status int, answer string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}

	status, answer := call("POST", "/admin/backup", `{"include": ["chroma"]}`)
	var snap backup.Snapshot
	if err := json.Unmarshal([]byte(answer), &snap); err != nil {
		log.Fatal(err)
	}
	fmt.Println(status, snap.Stamp, snap.Validated)
	fmt.Println(call("POST", "/admin/backup", `{"include": `))
	fmt.Println(call("POST", "/admin/backup", `{"include": ["chrome"]}`))

	status, answer = call("GET", "/admin/backup", "")
	fmt.Println(status, strings.Count(answer, `"stamp"`))

	validate := "/admin/backup/" + snap.Stamp + "/validate"
	status, _ = call("GET", validate, "")
	fmt.Println(status)
	fmt.Println(call("GET", "/admin/backup/yesterday/validate", ""))
	status, _ = call("GET", "/admin/backup/20200101T000000Z/validate", "")
	fmt.Println(status)

	if err := fsys.Remove("/srv/backups/snapshots/" + snap.Stamp + "/db/app.db"); err != nil {
		log.Fatal(err)
	}
	status, answer = call("GET", validate, "")
	fmt.Println(status, strings.Contains(answer, `"errors":["db_missing"]`))
	// Output:
	// 201 20260411T100000Z true
	// 400 {"error":"body: unexpected EOF"}
	// 422 {"error":"include: no source \"chrome\""}
	// 200 1
	// 200
	// 400 {"error":"backup: validate yesterday: invalid stamp: want one like 20060102T150405Z (got \"yesterday\")"}
	// 404
	// 409 true
}

// adminBackup serves
//
//	POST /admin/backup                   take a snapshot; {"include": [names]} is optional
//	GET  /admin/backup                   list the snapshots
//	GET  /admin/backup/{stamp}/validate  validate one in full
//
// as JSON. The names in onRequest may be included. Mount it behind the
// host's authentication: it tells paths. A client that hangs up cancels what
// it asked for. There is no endpoint for Restore, as the service must be
// stopped for that.
func adminBackup(store *backup.Store, onRequest []string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /admin/backup", func(w http.ResponseWriter, r *http.Request) {
		include, status, err := readInclude(w, r, onRequest)
		if err != nil {
			writeError(w, status, err)
			return
		}
		snap, err := store.Create(r.Context(), &backup.CreateOptions{Include: include})
		switch {
		case err != nil:
			writeError(w, statusOf(err), err)
		case !snap.Validated: // it is kept, but nobody should rely on it
			writeJSON(w, http.StatusConflict, snap)
		default:
			writeJSON(w, http.StatusCreated, snap)
		}
	})
	mux.HandleFunc("GET /admin/backup", func(w http.ResponseWriter, r *http.Request) {
		snapshots, err := store.List(r.Context())
		if err != nil {
			writeError(w, statusOf(err), err)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"snapshots": append([]backup.Snapshot{}, snapshots...)})
	})
	mux.HandleFunc("GET /admin/backup/{stamp}/validate", func(w http.ResponseWriter, r *http.Request) {
		report, err := store.Validate(r.Context(), r.PathValue("stamp"), nil)
		switch {
		case err != nil:
			writeError(w, statusOf(err), err)
		case !report.Exists:
			writeJSON(w, http.StatusNotFound, report)
		case !report.Valid:
			writeJSON(w, http.StatusConflict, report)
		default:
			writeJSON(w, http.StatusOK, report)
		}
	})
	return mux
}

// readInclude reads the body of a request for a snapshot, and the status to
// refuse it with. No body at all is fine.
func readInclude(w http.ResponseWriter, r *http.Request, onRequest []string) (include []string, status int, err error) {
	const maxBody = 64 << 10 // bytes
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("body: %w", err)
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	if len(data) == 0 {
		return nil, 0, nil
	}
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return nil, http.StatusUnsupportedMediaType, errors.New("body: want application/json")
	}
	var body struct {
		Include []string `json:"include"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // a key misspelt would leave out what was asked for
	err = dec.Decode(&body)
	if _, more := dec.Token(); err == nil && more != io.EOF {
		err = errors.New("data after the object")
	}
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	for _, name := range body.Include {
		if !slices.Contains(onRequest, name) {
			return nil, http.StatusUnprocessableEntity, fmt.Errorf("include: no source %q", name)
		}
	}
	return body.Include, 0, nil
}

// statusOf says how an operation's error looks to a client.
func statusOf(err error) int {
	switch {
	case errors.Is(err, backup.ErrInvalidStamp):
		return http.StatusBadRequest
	case errors.Is(err, backup.ErrNoSpace):
		return http.StatusInsufficientStorage
	case errors.Is(err, backup.ErrBusy), errors.Is(err, backup.ErrRecoveryPending):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error is a client that hung up
}

func TestAdminEndpoints(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, contentType, body string
		want                            int
	}{
		"no_body":         {"POST", "/admin/backup", "", "", http.StatusCreated},
		"charset":         {"POST", "/admin/backup", "application/json; charset=utf-8", `{}`, http.StatusCreated},
		"form":            {"POST", "/admin/backup", "text/plain", `{}`, http.StatusUnsupportedMediaType},
		"too_large":       {"POST", "/admin/backup", "application/json", strings.Repeat(" ", 1<<20), http.StatusRequestEntityTooLarge},
		"unknown_key":     {"POST", "/admin/backup", "application/json", `{"incldue": []}`, http.StatusBadRequest},
		"trailing_data":   {"POST", "/admin/backup", "application/json", `{} }`, http.StatusBadRequest},
		"wrong_type":      {"POST", "/admin/backup", "application/json", `{"include": "chroma"}`, http.StatusBadRequest},
		"not_on_request":  {"POST", "/admin/backup", "application/json", `{"include": ["nope"]}`, http.StatusUnprocessableEntity},
		"empty_list":      {"GET", "/admin/backup", "", "", http.StatusOK},
		"escaping_stamp":  {"GET", "/admin/backup/..%2F..%2Fdata/validate", "", "", http.StatusBadRequest},
		"unknown_verb":    {"DELETE", "/admin/backup", "", "", http.StatusMethodNotAllowed},
		"missing_restore": {"POST", "/admin/backup/20260411T100000Z/restore", "", "", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			store, _ := exampleStore()
			r := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
			r.Header.Set("Content-Type", test.contentType)
			w := httptest.NewRecorder()
			adminBackup(store, []string{"chroma"}).ServeHTTP(w, r)
			if w.Code != test.want {
				t.Errorf("got status %d, want %d: %s", w.Code, test.want, w.Body)
			}
			if test.want != http.StatusNotFound && test.want != http.StatusMethodNotAllowed { // which are the mux's
				if got := w.Header().Get("Content-Type"); got != "application/json" || !json.Valid(w.Body.Bytes()) {
					t.Errorf("got %q of type %q, want JSON", w.Body, got)
				}
			}
			if name == "empty_list" && strings.TrimSpace(w.Body.String()) != `{"snapshots":[]}` {
				t.Errorf("got %s, want no snapshots", w.Body)
			}
		})
	}
}

// TestDocumentation builds the program in README.md with the sketch in doc.go,
// as a newcomer would copy them, and runs it.
func TestDocumentation(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the go command")
	}
	goCmd, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command: ", err)
	}
	dir := t.TempDir()
	program := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindStringSubmatch(readText(t, "README.md"))
	sketch := regexp.MustCompile(`(?m)^//\tfunc .*\n(?://\t.*\n)+`).FindString(readText(t, "doc.go"))
	if program == nil || sketch == "" {
		t.Fatal("README.md has no program, or doc.go no sketch")
	}
	sketch = "package main\n\nimport (\n\"context\"\n\"github.com/atocore/backup\"\n)\n" + strings.ReplaceAll(sketch, "//\t", "")
	writeText(t, filepath.Join(dir, "main.go"), program[1])
	writeText(t, filepath.Join(dir, "sketch.go"), sketch)

	bin := filepath.Join(dir, "readme")
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	build := exec.Command(goCmd, "build", "-o", bin, filepath.Join(dir, "main.go"), filepath.Join(dir, "sketch.go"))
	if out, err := build.CombinedOutput(); err != nil { // in this directory, so with this package
		t.Fatalf("build: %v\n%s", err, out)
	}
	exampleExec(afero.NewOsFs(), filepath.Join(dir, "app.db"), "CREATE TABLE notes (body TEXT)")
	run := exec.Command(bin)
	run.Dir = dir
	out, err := run.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "good: ") {
		t.Errorf("run: %v\n%s", err, out)
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func writeText(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// exampleService makes the state of a small service on a file system in
// memory.
func exampleService() afero.Fs {
	fsys := afero.NewMemMapFs()
	exampleExec(fsys, "/srv/data/app.db", "CREATE TABLE notes (body TEXT); INSERT INTO notes VALUES ('baseline')")
	exampleExec(fsys, "/srv/chroma/chroma.sqlite3", "CREATE TABLE embeddings (v BLOB)")
	for name, content := range map[string]string{
		"/srv/config/registry.json": `{"projects": ["p1"]}`,
		"/srv/chroma/a/data.bin":    "\x00\x01",
	} {
		if err := afero.WriteFile(fsys, name, []byte(content), 0o600); err != nil {
			log.Fatal(err)
		}
	}
	return fsys
}

// exampleStore returns a store for the state of exampleService. On its clock
// it is always ten: one snapshot after another takes the next free second.
func exampleStore() (*backup.Store, afero.Fs) {
	fsys := exampleService()
	store, err := backup.New(backup.Config{
		Dir: "/srv/backups",
		Sources: []backup.Source{
			{Name: "db", Kind: backup.Database, Path: "/srv/data/app.db"},
			{Name: "config", Kind: backup.File, Path: "/srv/config/registry.json", Optional: true},
			{Name: "chroma", Kind: backup.Tree, Path: "/srv/chroma", OnRequest: true},
		},
		Fs:  fsys,
		Now: func() time.Time { return time.Date(2026, 4, 11, 10, 0, 0, 0, time.UTC) },
	})
	if err != nil {
		log.Fatal(err)
	}
	return store, fsys
}

// exampleExec runs SQL on a database, which it makes if there is none.
func exampleExec(fsys afero.Fs, path, sql string) {
	if err := fsys.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		log.Fatal(err)
	}
	db, err := backup.OpenDB(fsys, path)
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(db.Exec(sql), db.Close()); err != nil {
		log.Fatal(err)
	}
}

// exampleQuery returns the one value of a query.
func exampleQuery(fsys afero.Fs, path, sql string) string {
	db, err := backup.OpenDB(fsys, path)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	stmt, _, err := db.Prepare(sql)
	if err != nil {
		log.Fatal(err)
	}
	defer stmt.Close()
	if !stmt.Step() {
		log.Fatal("no row: ", stmt.Err())
	}
	return stmt.ColumnText(0)
}

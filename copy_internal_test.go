package backup

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Whatever part of a copy is made within the kernel, it has all of the bytes, and
// no more, and all of them are told of.
func TestCopyHasAllBytes(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	for _, test := range []struct{ has, size int }{
		{0, 0}, {1, 1}, {copyBuffer - 1, copyBuffer - 1}, {copyBuffer, copyBuffer}, {3*copyBuffer + 5, 3*copyBuffer + 5},
		{2*copyBuffer + 7, copyBuffer + 3},   // it has grown
		{copyBuffer + 3, 3*copyBuffer + 700}, // it was cut
	} {
		content := make([]byte, test.has)
		random.Read(content) // never fails
		path := filepath.Join(t.TempDir(), "src")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		dst, err := os.Create(path + ".copy")
		if err != nil {
			t.Fatal(err)
		}
		var told int64
		err = copyPlain(t.Context(), newFile{File: dst}, src, int64(test.size), func(n int64) { told += n })
		src.Close()
		dst.Close()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path + ".copy")
		if err != nil {
			t.Fatal(err)
		}
		want := content[:min(test.has, test.size)]
		if !bytes.Equal(got, want) || told != int64(len(want)) {
			t.Errorf("%d of %d bytes: %d were copied and %d told of, want %d", test.size, test.has, len(got), told, len(want))
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// What a writer says is never taken for the end of what is read.
func TestCopyTakesNoWriteErrorForTheEnd(t *testing.T) {
	if _, err := copyBytes(t.Context(), failingWriter{io.EOF}, bytes.NewReader([]byte("content")), unreported); err == nil {
		t.Error("a copy without its bytes is no error")
	}
}

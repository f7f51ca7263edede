package processor

import (
	"bytes"
	"io"
	"testing"
)

func TestACourteousReaderReadsPiecesThatAreSoonDone(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*readAtOnce/16)
	r := Courteous(bytes.NewReader(want))
	var got []byte
	for p := make([]byte, len(want)); ; {
		n, err := r.Read(p)
		if n > readAtOnce {
			t.Fatalf("it reads %d bytes at once", n)
		}
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, and other ones than the %d that there are", len(got), len(want))
	}
}

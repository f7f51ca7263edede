package redis

import (
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
)

//go:embed lua/*.lua
var files embed.FS

// script is a Lua script. Its source is the first line of its file, which says whether it writes, then prelude.lua (for those whose
// name begins with queue_ also queue.lua), then the rest.
type script struct {
	name, source, sha string
	writes            bool
}

func load(name string) *script {
	read := func(name string) string {
		text, err := files.ReadFile(path.Join("lua", name+".lua"))
		if err != nil {
			panic(err) // they are part of the program
		}
		return string(text)
	}
	prelude := read("prelude")
	if strings.HasPrefix(name, "queue_") {
		prelude += read("queue")
	}
	first, rest, _ := strings.Cut(read(name), "\n")
	if !strings.HasPrefix(first, "#!lua") {
		panic(fmt.Sprintf("lua/%s.lua does not begin with #!lua", name))
	}
	s := &script{name: name, source: first + "\n" + prelude + rest, writes: !strings.Contains(first, "no-writes")}
	sum := sha1.Sum([]byte(s.source)) // as EVALSHA wants it; nothing rests on its strength
	s.sha = hex.EncodeToString(sum[:])
	return s
}

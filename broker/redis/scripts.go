package redis

import (
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
)

//go:embed lua/*.lua
var files embed.FS

// script is a Lua script. Its source is the first line of its file, which says whether it writes, then prelude.lua (for those whose
// name begins with queue_ also queue.lua), then the rest.
type script struct {
	name string
	// code is made when it is first needed: what it takes to make all would be most of the start of every command of this program.
	code func() code
}

// code is what is sent to the server.
type code struct {
	source, sha string
	writes      bool
}

func load(name string) *script {
	return &script{name, sync.OnceValue(func() code { return makeCode(name) })}
}

func makeCode(name string) code {
	read := func(name string) string {
		text, err := files.ReadFile(path.Join("lua", name+".lua"))
		if err != nil {
			panic(err) // they are part of the program
		}
		return string(text)
	}
	first, rest, _ := strings.Cut(read(name), "\n")
	before := read("prelude")
	if strings.HasPrefix(name, "queue_") {
		before += read("queue")
	}
	before, rest = comments.ReplaceAllString(before, ""), comments.ReplaceAllString(rest, "")
	if strings.HasPrefix(name, "queue_") {
		before, rest = expandFields(before, rest)
	}
	before = needed(before, rest)
	if !strings.HasPrefix(first, "#!lua") {
		panic(fmt.Sprintf("lua/%s.lua does not begin with #!lua", name))
	}
	c := code{source: first + "\n" + before + rest, writes: !strings.Contains(first, "no-writes")}
	sum := sha1.Sum([]byte(c.source)) // as EVALSHA wants it; nothing rests on its strength
	c.sha = hex.EncodeToString(sum[:])
	return c
}

var (
	comments  = regexp.MustCompile(`(?m)^\s*--.*\n`)
	functions = regexp.MustCompile(`(?ms)^local function (\w+)\(.*?(\n| )end\n`)
)

// needed leaves out the functions of a library that a script does not use. Making one at each call takes longer than most commands.
func needed(library, script string) string {
	for {
		less := functions.ReplaceAllStringFunc(library, func(def string) string {
			name := functions.FindStringSubmatch(def)[1]
			use := regexp.MustCompile(`[^'.\w]` + name + `\b`)
			if !use.MatchString(script) && !use.MatchString(strings.Replace(library, def, "", 1)) {
				return ""
			}
			return def
		})
		if less == library {
			return library
		}
		library = less
	}
}

var (
	fieldsList = regexp.MustCompile(`(?s)local FIELDS = \{(.*?)\}`)
	fieldUse   = regexp.MustCompile(`\b(it|next|a|b)\.([a-z]+)\b`)
)

// expandFields lets scripts write it.state for what is packed as an array: each field that FIELDS names becomes its place in it.f.
// Filling a table by names at each call would take longer than all the commands of a script together.
func expandFields(library, script string) (string, string) {
	places := map[string]int{}
	list := fieldsList.FindStringSubmatch(library)
	for i, name := range strings.Split(list[1], "',") {
		places[strings.Trim(name, " '\n\t")] = i + 1
	}
	expand := func(source string) string {
		return fieldUse.ReplaceAllStringFunc(source, func(use string) string {
			table, name, _ := strings.Cut(use, ".")
			if place := places[name]; place > 0 {
				return fmt.Sprintf("%s.f[%d]", table, place)
			}
			return use
		})
	}
	return expand(strings.Replace(library, list[0], "", 1)), expand(script)
}

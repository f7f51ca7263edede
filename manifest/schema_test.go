package manifest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "rewrite schema.json")

func TestThePublishedSchemaIsTheStructs(t *testing.T) {
	if *update {
		if err := os.WriteFile("schema.json", Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, Schema()) {
		t.Error("schema.json is not what Schema makes: run go test ./manifest -update and look at the difference")
	}
}

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func accepts(t *testing.T, s *jsonschema.Schema, src string) error {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestTheSchemaAndParseAgree(t *testing.T) {
	s := compiledSchema(t)
	if err := accepts(t, s, full); err != nil {
		t.Error(err)
	}
	m, err := Parse([]byte(full), testTable(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Fill("")
	canonical, _ := m.JSON()
	if err := accepts(t, s, string(canonical)); err != nil {
		t.Error(err)
	}
	for _, src := range []string{
		"nmae: x", "name: X", "kind: magic", "limits: {memory: 1.5}", "limits: {memory: 64MB}", "limits: {time: 5}", "limits: {files: 1}",
		"limits: {queue: -2}", "routes: [{host: a}]", "routes: [{path: a}]", "capabilities: {files: [{guest: /a}]}", "capabilities: {kv: [Big]}",
		"capabilities: {fetch: ['ftp://a']}", "policy: [{on: fetch}]", "policy: [{on: [], do: deny}]", "policy: [{on: fetch, do: maybe}]", "limits: {hostcalls: -1}", "weight: 1001", "schedule: [{zone: UTC}]", "schedule: [{cron: '@daily'}]", "schedule: [{cron: '0 0 * * *', missed: no}]", "limits: {fuel: -1}",
	} {
		if accepts(t, s, src) == nil {
			t.Errorf("the schema accepts %s", src)
		}
		if _, err := Parse([]byte(src), testTable(t)); err == nil {
			t.Errorf("Parse accepts %s", src)
		}
	}
}

var fence = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func TestTheExamplesInTheDocumentationAreManifests(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "docs", "manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := compiledSchema(t)
	examples := fence.FindAllStringSubmatch(string(b), -1)
	if len(examples) < 5 {
		t.Errorf("%d examples found", len(examples))
	}
	for _, ex := range examples {
		if _, err := Parse([]byte(ex[1]), testTable(t)); err != nil {
			t.Errorf("%v\nin\n%s", err, ex[1])
		}
		if err := accepts(t, s, ex[1]); err != nil {
			t.Errorf("%v\nin\n%s", err, ex[1])
		}
	}
}

func TestTheDocumentationNamesEveryKeyAndRange(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "docs", "manifest.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for key, l := range spans() {
		fill := l.text(l.fill)
		switch {
		case key == "queue.concurrency":
			fill = "one less than `limits.concurrency`, at least 1"
		case l.fill == 0:
			fill = "no bound"
		}
		row := "| `" + key + "` | " + fill + " | " + l.text(l.low) + " to " + l.text(l.hi)
		if !strings.Contains(text, row) {
			t.Errorf("docs/manifest.md has no row beginning\n%s", row)
		}
	}
	var walk func(v map[string]any, key string)
	walk = func(v map[string]any, key string) {
		if key != "" && !strings.HasPrefix(key, "limits.") && !strings.Contains(text, "`"+strings.ReplaceAll(key, "[]", "")+"`") {
			t.Errorf("docs/manifest.md does not name `%s`", strings.ReplaceAll(key, "[]", ""))
		}
		if forms, ok := v["anyOf"].([]any); ok {
			for _, one := range forms {
				walk(one.(map[string]any), "")
			}
		}
		props, _ := v["properties"].(map[string]any)
		for name, p := range props {
			walk(p.(map[string]any), join2(key, name))
		}
		if items, ok := v["items"].(map[string]any); ok {
			if list, ok := items["anyOf"].([]any); ok {
				items = list[len(list)-1].(map[string]any)
			}
			if p, ok := items["properties"].(map[string]any); ok {
				for name, v := range p {
					walk(v.(map[string]any), join2(key, name))
				}
			}
		}
	}
	var schema map[string]any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	walk(schema, "")
}

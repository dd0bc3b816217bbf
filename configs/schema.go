package configs

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON schema (draft 2020-12) of the configuration file, made
// from the structs. Editors complete and check with it.
func Schema() []byte {
	s := sectionSchema(reflect.TypeFor[Config]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Spillway configuration"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("schema cannot be encoded: %v", err)) // plain maps, cannot happen
	}
	return append(b, '\n')
}

func sectionSchema(t reflect.Type) map[string]any {
	properties := map[string]any{}
	var required []string
	for _, f := range fieldsOf(t) {
		properties[f.Key] = fieldSchema(f)
		if f.Required {
			required = append(required, f.Key)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func fieldSchema(f field) map[string]any {
	var s map[string]any
	switch t := f.elem(); {
	case f.section():
		s = sectionSchema(t)
	case f.sectionList():
		s = map[string]any{"type": "array", "items": sectionSchema(t.Elem())}
	case t.Kind() == reflect.Slice:
		s = map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	case t == durationType:
		s = map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
	case t.Kind() == reflect.Bool:
		s = map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Float64:
		s = map[string]any{"type": "number"}
	case t.Kind() == reflect.String:
		s = map[string]any{"type": "string"}
	default:
		s = map[string]any{"type": "integer", "minimum": 0}
	}
	s["description"] = f.Doc
	if len(f.Enum) > 0 {
		s["enum"] = f.Enum
	}
	if f.Default != "" {
		s["default"] = typedDefault(f)
	}
	return s
}

func typedDefault(f field) any {
	switch t := f.Type; {
	case t == durationType, t.Kind() == reflect.String:
		return f.Default
	case t.Kind() == reflect.Slice:
		return strings.Split(f.Default, ",")
	case t.Kind() == reflect.Bool:
		return f.Default == "true"
	}
	n, err := strconv.ParseFloat(f.Default, 64)
	if err != nil {
		panic(fmt.Sprintf("default of %s: %v", f.Key, err)) // a test reads every default
	}
	return n
}

// Reference is docs/configuration.md: every key with its default, its meaning
// and the environment variable that overrides it.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# Configuration\n\n")
	b.WriteString("Made from the structs of package `configs`; `go test ./configs -update` writes it anew.\n\n")
	b.WriteString("One YAML file for all processes of a virtual cluster. It is strict: an unknown key is an error. `spillway config check FILE`\n")
	b.WriteString("names all faults with key and line, `spillway config schema` prints the JSON schema, `spillway config example NAME` prints a file to start from.\n")
	b.WriteString("Keys outside lists can be given by the environment, which wins over the file; lists of words there are separated by commas.\n")
	b.WriteString("Durations are written as `500ms`, `5s`, `2m`. Secrets stay out of the file: they are read from files or from environment variables that the file names.\n")
	referenceSection(&b, reflect.TypeFor[Config](), "", false)
	return []byte(b.String())
}

func referenceSection(b *strings.Builder, t reflect.Type, path string, inList bool) {
	var rows []field
	for _, f := range fieldsOf(t) {
		if !f.section() && !f.sectionList() {
			rows = append(rows, f)
		}
	}
	if len(rows) > 0 {
		b.WriteString("\n| key | kind | default | meaning | environment |\n| --- | --- | --- | --- | --- |\n")
		for _, f := range rows {
			b.WriteString(referenceRow(f, join(path, f.Key), inList))
		}
	}
	for _, f := range fieldsOf(t) {
		key := join(path, f.Key)
		switch {
		case f.sectionList():
			fmt.Fprintf(b, "\n## `%s[]`\n\n%s\n", key, f.Doc)
			referenceSection(b, f.Type.Elem(), key+"[]", true)
		case f.section():
			fmt.Fprintf(b, "\n## `%s`\n\n%s\n", key, f.Doc)
			referenceSection(b, f.elem(), key, inList)
		}
	}
}

func referenceRow(f field, path string, inList bool) string {
	def, env := "", ""
	switch {
	case f.Required:
		def = "required"
	case f.Default != "":
		def = "`" + f.Default + "`"
	}
	if !inList {
		env = "`" + EnvName(path) + "`"
	}
	kind := kindOf(f.Type)
	if len(f.Enum) > 0 {
		kind = "`" + strings.Join(f.Enum, "`, `") + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", path, kind, def, f.Doc, env)
}

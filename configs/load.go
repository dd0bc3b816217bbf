package configs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// fileBytesMax bounds what is read before it is parsed.
const fileBytesMax = 1 << 20

// Load reads and checks the file at path. The environment overrides the file,
// the file the defaults. All faults come at once, as Faults.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w; spillway config example prints one to start from", err)
	}
	return Parse(filepath.Base(path), data, os.LookupEnv)
}

// Parse is Load for bytes. The name stands in messages, lookup is the
// environment.
func Parse(name string, data []byte, lookup func(string) (string, bool)) (*Config, error) {
	if len(data) > fileBytesMax {
		return nil, Faults{{File: name, Text: fmt.Sprintf("%d bytes are too many for a configuration; the most is %d", len(data), fileBytesMax)}}
	}
	root, err := parseYAML(name, data)
	if err != nil {
		return nil, err
	}
	c := &checker{file: name, lines: map[string]int{}}
	values := map[string]any{}
	if root != nil {
		values = c.section(root, reflect.TypeFor[Config](), "", false)
	}
	cfg, err := c.compose(values, lookup)
	if err != nil {
		return nil, err
	}
	c.validate(cfg)
	if len(c.faults) > 0 {
		return nil, c.faults.sorted()
	}
	return cfg, nil
}

func parseYAML(name string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if strings.TrimSpace(string(data)) == "" {
			return nil, Faults{{File: name, Text: "is empty; spillway config example prints one to start from"}}
		}
		return nil, Faults{{File: name, Text: "is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// compose lets viper join defaults, file and environment.
func (c *checker) compose(values map[string]any, lookup func(string) (string, bool)) (*Config, error) {
	v := viper.New()
	if err := v.MergeConfigMap(values); err != nil {
		return nil, fmt.Errorf("merge configuration: %w", err)
	}
	present := func(path string) bool { return c.lines[path] > 0 }
	for _, l := range leaves(reflect.TypeFor[Config](), "", present) {
		if l.Field.Default != "" {
			v.SetDefault(l.Path, split(l.Field, l.Field.Default))
		}
		name := EnvName(l.Path)
		value, given := lookup(name)
		if given && value != "" {
			if l.Field.Type.Kind() != reflect.Slice {
				if problem := scalarProblem(value, l.Field); problem != "" {
					c.fault(0, l.Path, "%s (from the environment, %s)", problem, name)
					continue
				}
			}
			c.lines[l.Path] = 0
			v.Set(l.Path, split(l.Field, value))
		}
		if l.Field.Required && v.GetString(l.Path) == "" && !c.faulty(l.Path) {
			c.fault(c.lineOf(l.Path), l.Path, "is missing: %s", l.Field.Doc)
		}
	}
	var cfg Config
	err := v.Unmarshal(&cfg, func(d *mapstructure.DecoderConfig) {
		d.TagName = "key"
		d.WeaklyTypedInput = true
		d.DecodeHook = mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(","))
	})
	if err != nil && len(c.faults) == 0 {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	return &cfg, nil
}

// split turns "a,b" into a list where the key holds one.
func split(f field, value string) any {
	if f.Type.Kind() != reflect.Slice {
		return value
	}
	var words []string
	for w := range strings.SplitSeq(value, ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// lineOf finds the line of a key, or of the section that should hold it.
func (c *checker) lineOf(key string) int {
	for key != "" {
		if line := c.lines[key]; line > 0 {
			return line
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 0
		}
		key = key[:cut]
	}
	return 0
}

// faulty tells whether something was already said about a key.
func (c *checker) faulty(key string) bool {
	for _, f := range c.faults {
		if f.Key == key {
			return true
		}
	}
	return false
}

// secret reads a secret from its file or environment variable. It is never
// part of a message.
func secret(file, env string) (string, error) {
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read secret: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	case env != "":
		s, ok := os.LookupEnv(env)
		if !ok {
			return "", fmt.Errorf("read secret: the environment variable %s is not set", env)
		}
		return s, nil
	default:
		return "", errors.New("no secret configured")
	}
}

// Password reads the password. Without a mechanism it is "".
func (s SASL) Password() (string, error) {
	if s.Mechanism == "" {
		return "", nil
	}
	return secret(s.PasswordFile, s.PasswordEnv)
}

// Token reads the ACL token; "" where none is configured.
func (c Consul) Token() (string, error) {
	if c.TokenFile == "" && c.TokenEnv == "" {
		return "", nil
	}
	return secret(c.TokenFile, c.TokenEnv)
}

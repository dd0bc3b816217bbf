package clients

import (
	"os"
	"strings"
	"testing"
)

// docs/clients.md says what is run here, and nothing else.
func TestTheDocsSayWhichClientsAreRun(t *testing.T) {
	text, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]string) // cells by the name of the library and its version
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if name, _, _ := strings.Cut(cells[0], " ("); len(cells) == 9 && name != "client" && name != "---" {
			rows[name] = cells[1:]
		}
	}
	for _, kind := range Kinds {
		name := titles[kind]
		if name == "" {
			name = "Java " + strings.TrimPrefix(kind, "java-")
		}
		if p, ok := operating[kind]; ok {
			library, _, _ := strings.Cut(p.library, " ")
			name = strings.NewReplacer("[snappy]", "", "==", " ", "@", " ").Replace(library)
		}
		cells := rows[name]
		delete(rows, name)
		if cells == nil {
			t.Errorf("%s (%s) is not in the table", kind, name)
			continue
		}
		for column, has := range map[int]bool{0: true, 1: !NotIdempotent[kind], 2: true, 3: NextGroups[kind], 4: true, 5: true, 6: true} {
			if strings.HasPrefix(cells[column], "yes") != has || !has && cells[column] != "no" {
				t.Errorf("%s, column %d: the table says %q, the tests run it: %v", name, column+1, cells[column], has)
			}
		}
	}
	for name := range rows {
		t.Errorf("the table has %q, of which nothing is run", name)
	}
}

// titles of clients that are named otherwise than their kind.
var titles = map[string]string{"kcat": "kcat of Debian 12", "sarama": "sarama", "franz-go": "franz-go", "kafka-go": "kafka-go 0.4.51"}

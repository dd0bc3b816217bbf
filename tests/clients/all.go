package clients

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"testing"
	"time"

	"spillway/tests/orders/history"
)

// Load is what every client of ForTest does.
type Load struct {
	Clients           []Spec // Usual or Others
	Bootstrap, Topics []string
	Partitions        int
	Rate              float64 // records a second, of each client
	Classic           bool    // no client asks for KIP-848, which a cluster before 4.0 does not have
	Dir               string  // for histories and logs; a temporary folder if empty
}

// startPatience is how long a client may take until it is served: a Java client
// loads for ten seconds of a processor's time before it asks for anything.
const startPatience = 90 * time.Second

// Usual are the clients that the stories run; sarama and franz-go are beside them in the
// process of the test.
var Usual = []Spec{
	{Kind: "java-3.9.2", Name: "java39"},
	{Kind: "java-4.3.1", Name: "java43", Protocol: "consumer"},
	{Kind: "java-4.4.0", Name: "java44"},
	{Kind: "python", Name: "python"},
	{Kind: "kcat", Name: "kcat", Plain: true},
}

// Others have a story of their own: with all of them at once two cores would show nothing
// but their own load.
var Others = []Spec{
	{Kind: "java-2.8.2", Name: "java28"},
	{Kind: "java-3.6.2", Name: "java36"},
	{Kind: "java-4.0.1", Name: "java40", Protocol: "consumer"},
	{Kind: "kafkajs", Name: "kafkajs", Roles: []string{history.Producer, history.Member}}, // it has no assign()
	{Kind: "kafka-python", Name: "kafkapython"},
	{Kind: "aiokafka", Name: "aiokafka"},
}

// ForTest starts one client of each kind, each writing, reading in a group of
// its own and reading by assignment. They start one after another, each once
// the one before it is served: a Java client that loads beside clients at work,
// on a machine of two cores, may take minutes.
func ForTest(t testing.TB, l Load) []*Client {
	t.Helper()
	if l.Dir == "" {
		l.Dir = t.TempDir()
	}
	var all []*Client
	for _, s := range l.Clients {
		s.Bootstrap, s.Topics, s.Partitions, s.Rate, s.Dir = l.Bootstrap, l.Topics, l.Partitions, l.Rate, l.Dir
		if l.Classic {
			s.Protocol = ""
		}
		if s.Group = "group-" + s.Name; s.Roles == nil {
			s.Roles = []string{history.Producer, history.Member, history.Assigned}
		}
		c, err := Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		if err := c.processes[0].Await(startPatience, c.served); err != nil {
			t.Fatalf("client %s is not served: %v", s.Name, err)
		}
		all = append(all, c)
	}
	return all
}

// served returns an error while a role of the client has no first record in the
// history.
func (c *Client) served() error {
	text, err := os.ReadFile(c.HistoryFile())
	if err != nil {
		return err
	}
	first := map[string]history.Kind{history.Producer: history.Invoke, history.Member: history.Consume, history.Assigned: history.Consume}
	for _, role := range c.spec.Roles {
		want := fmt.Sprintf(`"e":%q,"client":"%s-%s"`, first[role], c.spec.Name, role)
		if !bytes.Contains(text, []byte(want)) {
			return fmt.Errorf("nothing like %s in %s yet", want, c.HistoryFile())
		}
	}
	return nil
}

// Histories merges what the clients were told. Call done when it has been read.
func Histories(all []*Client, others ...iter.Seq2[history.Event, error]) (events iter.Seq2[history.Event, error], done func(), err error) {
	var files []*os.File
	done = func() {
		for _, f := range files {
			_ = f.Close() // read only
		}
	}
	for _, c := range all {
		f, err := os.Open(c.HistoryFile())
		if err != nil {
			done()
			return nil, nil, err
		}
		files = append(files, f)
		others = append(others, history.Read(f))
	}
	return history.Merge(others...), done, nil
}

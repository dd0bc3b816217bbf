package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"spillway/console/status"
)

func serve(t *testing.T, source Source) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	Register(mux, source)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func fetch(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() }) // read only
	return res
}

func TestStatusIsJSON(t *testing.T) {
	known := false
	s := serve(t, func() (status.Status, bool) {
		return status.Status{VirtualCluster: "shop", Level: status.Bad, News: []string{"x"}}, known
	})
	if res := fetch(t, s.URL+"/api/status"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before the first observation: %s", res.Status)
	}
	known = true
	var got status.Status
	if err := json.NewDecoder(fetch(t, s.URL+"/api/status").Body).Decode(&got); err != nil || got.VirtualCluster != "shop" || got.Level != status.Bad {
		t.Errorf("%+v, %v", got, err)
	}
}

// The page must work where there is no other host to ask.
func TestPageAsksNoOtherHost(t *testing.T) {
	outside := regexp.MustCompile(`(?:https?:)?//[a-z]`)
	entries, err := assets.ReadDir("assets")
	if err != nil || len(entries) != 4 {
		t.Fatalf("%d assets, %v", len(entries), err)
	}
	s := serve(t, func() (status.Status, bool) { return status.Status{}, false })
	for _, e := range entries {
		text, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		plain := strings.ReplaceAll(string(text), `xmlns="http://www.w3.org/2000/svg"`, "")
		if at := outside.FindString(plain); at != "" {
			t.Errorf("%s names another host: %s", e.Name(), at)
		}
		path := "/" + e.Name()
		if e.Name() == "index.html" {
			path = "/"
		}
		if res := fetch(t, s.URL+path); res.StatusCode != http.StatusOK || !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

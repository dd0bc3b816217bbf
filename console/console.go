// Package console is the status page and its HTTP API. It shows what package
// status says and nothing else: it knows neither Kafka nor the coordinator
// store. Assets are embedded and plain; the page asks no other host.
//
//	GET /             the page
//	GET /api/status   the status as JSON
package console

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"

	"spillway/console/status"
)

//go:embed assets
var assets embed.FS

// Source is asked for the newest status; false: nothing was observed yet.
type Source func() (status.Status, bool)

// Register serves the page and the API.
func Register(mux *http.ServeMux, source Source) {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(fmt.Sprintf("console assets: %v", err)) // embedded, cannot happen
	}
	files := http.FileServerFS(sub)
	mux.Handle("GET /{$}", guarded(files))
	mux.Handle("GET /style.css", guarded(files))
	mux.Handle("GET /app.js", guarded(files))
	mux.Handle("GET /icon.svg", guarded(files))
	mux.Handle("GET /api/status", guarded(http.HandlerFunc(source.status)))
}

// guarded keeps the page to itself: no other origin is asked or may frame it.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (source Source) status(w http.ResponseWriter, _ *http.Request) {
	s, ok := source()
	if !ok {
		http.Error(w, `{"error":"nothing was observed yet"}`, http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s) // the client is gone, there is nobody to tell
}

//go:build e2e

package deploy

import "testing"

func TestLint(t *testing.T) {
	made, err := decodeArtifacts()
	must(t, err)
	for _, check := range [][]string{
		{"yamllint", "--strict", "."},
		{"ansible-lint", "--offline", "--strict", "--nocolor"},
		{"ansible-playbook", "--syntax-check", "playbooks/site.yml", "playbooks/artifacts.yml"},
	} {
		t.Run(check[0], func(t *testing.T) {
			if output, err := made.ansible(t.Context(), check[0], check[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", check, err, output)
			}
		})
	}
}

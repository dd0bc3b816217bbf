package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const roles = "../../ansible/roles"

// tasks takes a file of tasks apart.
func tasks(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n- name: ")[1:]
}

// Ansible writes the parameters of modules into the journal of the host, unless it is told not to.
func TestTokensAreNotLogged(t *testing.T) {
	files, err := filepath.Glob(roles + "/*/*/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range files {
		if kind := filepath.Base(filepath.Dir(file)); kind != "tasks" && kind != "handlers" {
			continue
		}
		for _, task := range tasks(t, file) {
			if !strings.Contains(task, "X-Consul-Token") && !strings.Contains(task, "_token }}") {
				continue
			}
			if count++; !strings.Contains(task, "\n  no_log: ") {
				t.Errorf("%s: the task %q shows a token", file, strings.SplitN(task, "\n", 2)[0])
			}
		}
	}
	if count < 4 {
		t.Errorf("%d tasks with tokens", count)
	}
}

// Brokers are restarted between the two, which pauses failovers with the operators' token.
func TestTokensAreWrittenBeforeBrokersRestart(t *testing.T) {
	for _, token := range []string{"{{ spillway_consul_token }}", "{{ spillway_consul_operator_token }}"} {
		if !strings.Contains(strings.Join(tasks(t, roles+"/spillway/tasks/install.yml"), ""), token) {
			t.Errorf("%s is not written where the program is installed", token)
		}
	}
	text, err := os.ReadFile("../../ansible/playbooks/site.yml")
	if err != nil {
		t.Fatal(err)
	}
	install, restart := strings.Index(string(text), "- name: Install Spillway"), strings.Index(string(text), "- name: Configure Kafka")
	if install < 0 || restart < install {
		t.Errorf("Spillway is installed at %d, brokers are configured at %d of the playbook", install, restart)
	}
}

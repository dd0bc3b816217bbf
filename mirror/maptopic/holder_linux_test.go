package maptopic

import (
	"os/exec"
	"testing"
)

func TestHolderIsGone(t *testing.T) {
	t.Parallel()
	here := ThisProcess()
	if here.PID == 0 || here.Gone() {
		t.Errorf("this process: %+v, gone %v", here, here.Gone())
	}
	child := exec.CommandContext(t.Context(), "sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	started, lives := processStart(child.Process.Pid)
	other := Holder{Boot: here.Boot, Processes: here.Processes, PID: child.Process.Pid, Started: started}
	if !lives || other.Gone() {
		t.Errorf("a child that lives: %+v", other)
	}
	again := other
	again.Started = "1"
	if !again.Gone() {
		t.Error("a process id that was given again passes for the one before")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for !other.Gone() { // it is not waited for yet
	}
	_ = child.Wait() // it was killed
	if !other.Gone() {
		t.Error("a child that was killed passes for one that lives")
	}
	for name, h := range map[string]Holder{
		"nothing known":     {},
		"another machine":   {Boot: "x", Processes: here.Processes, PID: child.Process.Pid, Started: started},
		"another container": {Boot: here.Boot, Processes: "pid:[1]", PID: child.Process.Pid, Started: started},
	} {
		if h.Gone() {
			t.Errorf("%s: passes for gone", name)
		}
	}
}

package plugins

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asFake is set in the environment of the plugin under test, and so in that of its delegates.
const asFake = "BERTH_TEST_FAKE_PLUGIN"

// FakeEnv makes the plugin "fake" in Fake's directory work.
const FakeEnv = asFake + "=1"

// Fake makes a directory with the IPAM plugin "fake": this test binary, whose TestMain calls BeFake.
func Fake(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "fake")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fakeConfig is the ipam section of fake.
type fakeConfig struct {
	// State is a directory: "log" in it has a line for each call, and a file for each interface that has addresses.
	State string `json:"state"`
	// Mode is what goes wrong, by verb: "fail" with a CNI error, "garbage" is printed, "die" after the work is done, without a word,
	// "leave" a child that keeps stdout open, "hang", "flood" stdout.
	Mode map[string]string `json:"mode"`
	// Result of ADD.
	Result json.RawMessage `json:"result"`
}

// BeFake makes this process the plugin fake, if it was started as that.
func BeFake() {
	if os.Getenv(asFake) == "" || filepath.Base(os.Args[0]) != "fake" {
		return
	}
	if err := fake(os.Getenv("CNI_COMMAND")); err != nil {
		fmt.Printf(`{"cniVersion":"1.0.0","code":77,"msg":%q,"details":"of fake"}`, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func fake(command string) error {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var conf struct {
		IPAM  fakeConfig      `json:"ipam"`
		Valid json.RawMessage `json:"cni.dev/valid-attachments"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return err
	}
	c := conf.IPAM
	log, err := os.OpenFile(filepath.Join(c.State, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	line := strings.TrimRight(fmt.Sprint(command, " ", os.Getenv("CNI_CONTAINERID"), " ", os.Getenv("CNI_IFNAME"), " ", string(conf.Valid)), " ")
	if _, err := fmt.Fprintln(log, line); err != nil {
		return err
	}
	if c.Mode[command] == "fail" {
		return fmt.Errorf("%s fails", command)
	}
	given := filepath.Join(c.State, os.Getenv("CNI_CONTAINERID")+"@"+os.Getenv("CNI_IFNAME"))
	switch command {
	case "ADD":
		f, err := os.OpenFile(given, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("duplicate allocation: %w", err)
		}
		f.Close()
	case "DEL":
		os.Remove(given)
	case "CHECK":
		if _, err := os.Stat(given); err != nil {
			return err
		}
	}
	switch c.Mode[command] {
	case "garbage":
		fmt.Print("<html>")
		return nil
	case "die":
		os.Exit(3)
	case "leave":
		child := exec.Command("/bin/sleep", "10")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			return err
		}
	case "hang":
		select {}
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 1<<20)); err != nil {
				os.Exit(4)
			}
		}
	}
	if command == "ADD" {
		fmt.Print(string(c.Result))
	}
	return nil
}

// Calls of the fake plugin so far, and the interfaces that have addresses of it.
func Calls(t testing.TB, state string) (calls, given []string) {
	t.Helper()
	entries, err := os.ReadDir(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "log" {
			given = append(given, e.Name())
			continue
		}
		data, err := os.ReadFile(filepath.Join(state, "log"))
		if err != nil {
			t.Fatal(err)
		}
		calls = strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	return calls, given
}

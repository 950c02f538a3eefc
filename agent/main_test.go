package agent

import (
	"os"
	"testing"

	"github.com/berthdev/berth/tests/plugins"
)

func TestMain(m *testing.M) {
	plugins.BeFake() // does not return if this process is started as that
	code := m.Run()
	plugins.Remove()
	os.Exit(code)
}

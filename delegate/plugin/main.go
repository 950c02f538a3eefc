package plugin

import (
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// The versions of the CNI specification. 0.1.0 and 0.2.0 are left out: their results have one address of each family and no scope of
// routes.
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const versionAnswer = `{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"

// call is what the runtime asks for.
type call struct {
	command                                   string
	containerID, netns, ifName, args, netnsOK string
	stdin                                     []byte
	config
	ran []*delegated // the delegates that were run, in order
}

// verb does a call; what it returns is printed.
type verb func(*call) ([]byte, *failure)

// verbs of the specification, and the first version that has each.
func verbs(command string) (do verb, since string) {
	switch command {
	case "ADD":
		return add, ""
	case "DEL":
		return del, ""
	case "CHECK":
		return check, "0.4.0"
	case "GC":
		return gc, "1.1.0"
	case "STATUS":
		return status, "1.1.0"
	}
	return nil, ""
}

// Main does what CNI_COMMAND says and prints the result, or the error, on stdout. It returns the exit status. About is printed if there
// is no command.
func Main(about string) (exit int) { return run(about, verbs) }

// run has a recover: a runtime that finds no error object on stdout cannot say what went wrong.
func run(about string, verbs func(string) (verb, string)) (exit int) {
	var f *failure
	defer func() {
		if r := recover(); r != nil {
			stack := make([]byte, 16<<10)
			f = &failure{codeInternal, "berth: panic: " + what(r) + "; this is a bug, please report it", string(stack[:runtime.Stack(stack, false)])}
		}
		if f != nil {
			_, _ = os.Stdout.Write(f.json())
			exit = 1
		}
	}()
	var out []byte
	switch command := os.Getenv("CNI_COMMAND"); command {
	case "":
		if about != "" {
			_, _ = os.Stderr.WriteString(about + "\nCNI protocol versions supported: " + strings.Join(versions, ", ") + "\n")
			return 0
		}
		f = missing("CNI_COMMAND")
	case "VERSION":
		out = []byte(versionAnswer)
	default:
		out, f = do(command, verbs)
	}
	if f == nil {
		if _, err := os.Stdout.Write(out); err != nil {
			f = &failure{codeIO, "write the result: " + err.Error(), ""}
		}
	}
	return 0
}

// what a panic says.
func what(r any) string {
	switch r := r.(type) {
	case error:
		return r.Error()
	case string:
		return r
	}
	return "a value that is neither an error nor a string"
}

// do a verb, once its parameters are what the specification wants ("Parameters", "Section 1").
func do(command string, verbs func(string) (verb, string)) ([]byte, *failure) {
	c := &call{command: command, containerID: os.Getenv("CNI_CONTAINERID"), netns: os.Getenv("CNI_NETNS"), ifName: os.Getenv("CNI_IFNAME"),
		args: os.Getenv("CNI_ARGS"), netnsOK: os.Getenv("CNI_NETNS_OVERRIDE")}
	verb, since := verbs(command)
	if verb == nil {
		return nil, &failure{codeEnvironment, "unknown CNI_COMMAND: " + command, ""}
	}
	if f := c.checkEnvironment(); f != nil {
		return nil, f
	}
	var err error
	if c.stdin, err = io.ReadAll(os.Stdin); err != nil {
		return nil, &failure{codeIO, "error reading from stdin: " + err.Error(), ""}
	}
	var f *failure
	if c.config, f = readConfig(c.stdin); f != nil {
		return nil, f
	}
	at := slices.Index(versions, c.version)
	if at < 0 {
		return nil, &failure{codeVersion, "incompatible CNI versions",
			`config is "` + c.version + `", plugin supports ["` + strings.Join(versions, `" "`) + `"]`}
	}
	if at < slices.Index(versions, since) {
		return nil, &failure{codeVersion, "config version does not allow " + command, ""}
	}
	return verb(c)
}

func missing(variables ...string) *failure {
	return &failure{codeEnvironment, "required env variables [" + strings.Join(variables, ",") + "] missing", ""}
}

func (c *call) checkEnvironment() *failure {
	var absent []string
	need := func(name, value string) {
		if value == "" {
			absent = append(absent, name)
		}
	}
	if c.command == "ADD" || c.command == "DEL" || c.command == "CHECK" {
		need("CNI_CONTAINERID", c.containerID)
		if c.command != "DEL" { // the namespace may be gone
			need("CNI_NETNS", c.netns)
		}
		need("CNI_IFNAME", c.ifName)
		if c.containerID != "" && !isName(c.containerID) {
			return &failure{codeEnvironment, "invalid characters in containerID", c.containerID}
		}
		if why := badLink(c.ifName); why != "" {
			return &failure{codeEnvironment, why, ""}
		}
	}
	need("CNI_PATH", os.Getenv("CNI_PATH"))
	if len(absent) > 0 {
		return missing(absent...)
	}
	return nil
}

// isName: a letter or digit first, then also _ . and - (the names of networks and containers).
func isName(s string) bool {
	for i, r := range []byte(s) {
		alphanumeric := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alphanumeric && (i == 0 || strings.IndexByte("_.-", r) < 0) {
			return false
		}
	}
	return s != ""
}

// badLink says why a name is none that the kernel gives a link (dev_valid_name in net/core/dev.c).
func badLink(name string) string {
	switch {
	case len(name) > 15:
		return "interface name is too long"
	case name == "." || name == "..":
		return "interface name is . or .."
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) }):
		return "interface name contains / or : or whitespace characters"
	}
	return ""
}

// config is what the plugin itself needs of the network configuration. The agent reads the rest, and says what is wrong with it.
type config struct {
	version, name string
	socket        string
	socketErr     error
}

func readConfig(data []byte) (config, *failure) {
	c := config{version: "0.1.0", socket: DefaultSocket} // the first version had no such key
	wrong := ""
	valid := members(data, func(name string, value []byte) {
		var ok bool
		switch name {
		case `"cniVersion"`:
			if c.version, ok = text(value); !ok {
				wrong = "cniVersion is no string"
			}
		case `"name"`:
			if c.name, ok = text(value); !ok {
				wrong = "name is no string"
			}
		case `"ipam"`:
			members(value, func(name string, value []byte) {
				if name == `"socket"` {
					c.setSocket(value)
				}
			})
		}
	})
	switch {
	case !valid:
		return c, &failure{codeDecoding, "error unmarshall network config: it is no JSON object", ""}
	case wrong != "":
		return c, &failure{codeDecoding, "error unmarshall network config: " + wrong, ""}
	case c.name == "":
		return c, &failure{codeConfig, "missing network name", ""}
	case !isName(c.name):
		return c, &failure{codeConfig, "invalid characters found in network name", c.name}
	}
	if c.version == "" {
		c.version = "0.1.0"
	}
	return c, nil
}

// maxSocket is the length of a socket's path (unix(7), sun_path).
const maxSocket = 107

func (c *config) setSocket(value []byte) {
	switch socket, ok := text(value); {
	case !ok || socket != "" && (socket[0] != '/' || strings.Contains(socket, "\x00")):
		c.socketErr = errors.New(string(value) + " is no absolute path")
	case len(socket) > maxSocket:
		c.socketErr = errors.New(string(value) + " is longer than the " + strconv.Itoa(maxSocket) + " bytes that the path of a socket may have")
	case socket != "":
		c.socket = socket
	}
}

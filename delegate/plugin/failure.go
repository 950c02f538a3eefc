package plugin

import "strconv"

// Codes of the CNI specification (1.1.0, section "Error") that the plugin itself fails with.
const (
	codeVersion       uint = 1
	codeEnvironment   uint = 4
	codeIO            uint = 5
	codeDecoding      uint = 6
	codeConfig        uint = 7
	codeNamespace     uint = 8
	codeTryAgainLater uint = 11
	codeInternal      uint = 999
)

// failure is a CNI error.
type failure struct {
	code         uint
	msg, details string
}

// json is what a runtime finds on stdout.
func (f *failure) json() []byte {
	out := strconv.AppendUint([]byte(`{"code":`), uint64(f.code), 10)
	out = quote(append(out, `,"msg":`...), f.msg)
	if f.details != "" {
		out = quote(append(out, `,"details":`...), f.details)
	}
	return append(out, '}')
}

// readFailure is the inverse; nil if data is no CNI error with a code and a message.
func readFailure(data []byte) *failure {
	f := &failure{}
	ok := true
	read := func(to *string, value []byte) {
		var is bool
		*to, is = text(value)
		ok = ok && is
	}
	valid := members(data, func(name string, value []byte) {
		switch name {
		case `"code"`:
			n, err := strconv.ParseUint(string(value), 10, 32)
			f.code, ok = uint(n), ok && err == nil
		case `"msg"`:
			read(&f.msg, value)
		case `"details"`:
			read(&f.details, value)
		}
	})
	if !valid || !ok || f.code == 0 || f.msg == "" {
		return nil
	}
	return f
}

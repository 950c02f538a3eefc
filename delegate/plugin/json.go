package plugin

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// What is read and written here of JSON (RFC 8259) is so little that encoding/json would take longer to get going, 0.2 ms, than the rest
// of the plugin. The tests compare both.

// members calls f for each member of an object, in order: its name as it is written, with quotes, and its value. It says whether data is
// one object, and valid; f may have been called even if not.
func members(data []byte, f func(name string, value []byte)) bool {
	return whole(data, '{', func(name, value []byte) { f(string(name), value) })
}

// elements calls f for each element of an array, likewise.
func elements(data []byte, f func(value []byte)) bool {
	return whole(data, '[', func(_, value []byte) { f(value) })
}

func whole(data []byte, begin byte, f func(name, value []byte)) bool {
	s := scan{data, 0}
	if s.space(); s.peek() != begin || !s.value(maxDepth, f) {
		return false
	}
	s.space()
	return s.at == len(data)
}

// maxDepth of nesting, as of encoding/json.
const maxDepth = 10000

// scan goes through JSON; its methods say whether what they passed was valid.
type scan struct {
	data []byte
	at   int
}

// peek at the next byte; 0, which is never valid, at the end.
func (s *scan) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scan) is(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *scan) space() {
	for s.at < len(s.data) && strings.IndexByte(" \t\r\n", s.data[s.at]) >= 0 {
		s.at++
	}
}

// value of any kind; each, if not nil, is for what is directly in it.
func (s *scan) value(depth int, each func(name, value []byte)) bool {
	switch c := s.peek(); c {
	case '{':
		return depth > 0 && s.list('}', depth, each)
	case '[':
		return depth > 0 && s.list(']', depth, each)
	case '"':
		return s.text()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scan) list(end byte, depth int, each func(name, value []byte)) bool {
	s.at++
	if s.space(); s.is(end) {
		return true
	}
	for {
		var name []byte
		if end == '}' {
			from := s.at
			if s.peek() != '"' || !s.text() {
				return false
			}
			name = s.data[from:s.at]
			if s.space(); !s.is(':') {
				return false
			}
			s.space()
		}
		from := s.at
		if !s.value(depth-1, nil) {
			return false
		}
		if each != nil {
			each(name, s.data[from:s.at])
		}
		if s.space(); s.is(end) {
			return true
		}
		if !s.is(',') {
			return false
		}
		s.space()
	}
}

func (s *scan) word(w string) bool {
	if !strings.HasPrefix(string(s.data[s.at:min(len(s.data), s.at+len(w))]), w) {
		return false
	}
	s.at += len(w)
	return true
}

func (s *scan) text() bool {
	for s.at++; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			return true
		case c < ' ':
			return false
		case c == '\\':
			s.at++
			if s.peek() == 'u' {
				if _, ok := hex4(s.data[s.at+1:]); !ok {
					return false
				}
				s.at += 4
			} else if strings.IndexByte(`"\/bfnrt`, s.peek()) < 0 {
				return false
			}
		}
	}
	return false
}

func (s *scan) number() bool {
	s.is('-')
	if !s.is('0') && !s.digits() {
		return false
	}
	if s.is('.') && !s.digits() {
		return false
	}
	if s.is('e') || s.is('E') {
		if !s.is('+') {
			s.is('-')
		}
		return s.digits()
	}
	return true
}

func (s *scan) digits() bool {
	from := s.at
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.at++
	}
	return s.at > from
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}

// text of a valid value; false if it is neither a string nor null, which is "".
func text(value []byte) (string, bool) {
	if string(value) == "null" {
		return "", true
	}
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	in := value[1 : len(value)-1]
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		i++
		if k := strings.IndexByte("bfnrt", in[i]); k >= 0 {
			out = append(out, "\b\f\n\r\t"[k])
			continue
		}
		if in[i] != 'u' {
			out = append(out, in[i])
			continue
		}
		r, _ := hex4(in[i+1:])
		i += 4
		if utf16.IsSurrogate(r) {
			var low rune
			if i+6 < len(in) && in[i+1] == '\\' && in[i+2] == 'u' {
				low, _ = hex4(in[i+3:])
			}
			if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
				i += 6
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return string([]rune(string(out))), true // what is not UTF-8 is U+FFFD
}

// quote appends a string.
func quote(to []byte, s string) []byte {
	to = append(to, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = append(to, `\u00`...)
			to = append(to, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}

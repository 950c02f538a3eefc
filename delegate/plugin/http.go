package plugin

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// maxReply bounds what is read of an answer, in bytes. A result with a hundred addresses has some 10 KiB.
const maxReply = 4 << 20

// errProtocol: what came back is not HTTP. Everything else that goes wrong in post is the agent being away.
var errProtocol = errors.New("not HTTP")

// post sends one request and reads its answer, at most for timeout. It speaks the HTTP/1.0 (RFC 1945) that one POST on a connection of
// its own needs, in which an answer is neither preceded by others nor in chunks.
func post(socket, path string, body []byte, timeout time.Duration) (status int, reply []byte, err error) {
	conn, err := dial(socket, timeout)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	head := "POST " + path + " HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return 0, nil, err
	}
	return readReply(conn)
}

func readReply(r io.Reader) (status int, reply []byte, err error) {
	buf := make([]byte, 0, 4096)
	var h *header
	for err == nil && (h == nil || h.length < 0 || len(buf) < h.size+h.length) {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		var n int
		n, err = r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if h == nil {
			var wrong error
			if h, wrong = readHeader(buf); wrong != nil {
				return 0, nil, wrong
			}
		}
		if len(buf) > maxReply {
			return 0, nil, protocol("the answer has more than " + strconv.Itoa(maxReply) + " bytes")
		}
	}
	switch {
	case len(buf) == 0 || err != nil && !errors.Is(err, io.EOF):
		return 0, nil, err
	case h == nil || h.length >= 0 && len(buf) < h.size+h.length:
		return 0, nil, io.ErrUnexpectedEOF
	case h.length >= 0:
		return h.status, buf[h.size : h.size+h.length], nil
	}
	return h.status, buf[h.size:], nil // to the end of the connection
}

// header of an answer. A length below 0 is not given.
type header struct {
	status, length int
	size           int // of the header itself, with the empty line at its end
}

// readHeader is nil if it is not there yet.
func readHeader(buf []byte) (*header, error) {
	text, _, ok := bytes.Cut(buf, []byte("\r\n\r\n"))
	if !ok {
		if line, _, ok := bytes.Cut(buf, []byte("\r\n")); ok {
			_, err := readStatus(string(line))
			return nil, err
		}
		return nil, nil
	}
	h := &header{length: -1, size: len(text) + 4}
	lines := strings.Split(string(text), "\r\n")
	var err error
	if h.status, err = readStatus(lines[0]); err != nil {
		return nil, err
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		switch {
		case !ok:
			return nil, protocol(line)
		case strings.EqualFold(name, "Transfer-Encoding"):
			return nil, protocol("HTTP/1.0 has no " + line)
		case strings.EqualFold(name, "Content-Length"):
			if h.length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || h.length < 0 || h.length > maxReply {
				return nil, protocol(line)
			}
		}
	}
	return h, nil
}

func readStatus(line string) (int, error) {
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !strings.HasPrefix(proto, "HTTP/1.") || err != nil || status < 200 || status > 999 {
		return 0, protocol(line)
	}
	return status, nil
}

func protocol(what string) error {
	return protocolError(strconv.Quote(what[:min(len(what), 100)]))
}

type protocolError string

func (e protocolError) Error() string        { return "not HTTP/1.0: " + string(e) }
func (e protocolError) Is(target error) bool { return target == errProtocol }

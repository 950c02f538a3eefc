package delegate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// maxReply bounds what is read of an answer, in bytes. A result with a hundred addresses has some 10 KiB.
const maxReply = 4 << 20

// errProtocol: what came back is not HTTP. Everything else that goes wrong in post is the agent being away.
var errProtocol = errors.New("not HTTP")

// post sends one request and reads its answer, at most for timeout. It speaks the HTTP/1.1 of RFC 9112 that one POST on a
// connection of its own needs, instead of importing net/http: that would cost each start of the plugin half a millisecond
// for the initialisation of TLS, HTTP/2 and more, and 3.5 MB of binary (measured with Go 1.26).
func post(socket, path string, body []byte, timeout time.Duration) (status int, reply []byte, err error) {
	conn, err := dial(socket, timeout)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: berth\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		path, len(body))
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return 0, nil, err
	}
	return readReply(bufio.NewReader(conn))
}

func readReply(r *bufio.Reader) (status int, reply []byte, err error) {
	text := textproto.NewReader(r)
	var header textproto.MIMEHeader
	for status < 200 { // 1xx are interim answers, the final one follows
		if status, err = readStatus(text); err != nil {
			return 0, nil, err
		}
		if header, err = text.ReadMIMEHeader(); err != nil {
			return 0, nil, headerError(r, err)
		}
	}
	body := io.Reader(r) // neither a length nor chunks: to the end of the connection
	length := int64(-1)
	if strings.EqualFold(header.Get("Transfer-Encoding"), "chunked") {
		body = &chunkedReader{r: text}
	} else if s := header.Get("Content-Length"); s != "" {
		if length, err = strconv.ParseInt(s, 10, 64); err != nil || length < 0 {
			return 0, nil, fmt.Errorf("%w: Content-Length %q", errProtocol, s)
		}
		body = io.LimitReader(r, length)
	}
	reply, err = io.ReadAll(io.LimitReader(body, maxReply+1))
	switch {
	case err != nil:
		return 0, nil, err
	case len(reply) > maxReply:
		return 0, nil, fmt.Errorf("%w: the answer has more than %d bytes", errProtocol, maxReply)
	case length >= 0 && int64(len(reply)) < length:
		return 0, nil, io.ErrUnexpectedEOF
	}
	return status, reply, nil
}

func readStatus(text *textproto.Reader) (int, error) {
	line, err := text.ReadLine()
	if err != nil {
		return 0, err
	}
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !strings.HasPrefix(proto, "HTTP/1.") || err != nil || status < 100 || status > 999 {
		return 0, fmt.Errorf("%w: %.100q", errProtocol, line)
	}
	return status, nil
}

// headerError tells a malformed header from one that was cut off, of which textproto says the same.
func headerError(r *bufio.Reader, err error) error {
	var malformed textproto.ProtocolError
	if !errors.As(err, &malformed) {
		return noEOF(err)
	}
	if _, cut := r.Peek(1); cut != nil {
		return noEOF(cut)
	}
	return fmt.Errorf("%w: %w", errProtocol, err)
}

// chunkedReader reads the chunked transfer coding (RFC 9112, section 7.1), which the server of net/http uses for answers
// beyond 2 KiB. It ignores extensions and trailers.
type chunkedReader struct {
	r    *textproto.Reader
	left int64 // of the present chunk
	done bool
}

func (c *chunkedReader) Read(p []byte) (int, error) {
	if c.done {
		return 0, io.EOF
	}
	if c.left == 0 {
		line, err := c.r.ReadLine()
		if err != nil {
			return 0, noEOF(err)
		}
		size, _, _ := strings.Cut(line, ";")
		if c.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 64); err != nil || c.left < 0 {
			return 0, fmt.Errorf("%w: chunk size %.20q", errProtocol, line)
		}
		if c.left == 0 {
			c.done = true
			return 0, io.EOF
		}
	}
	n, err := c.r.R.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == nil && c.left == 0 { // the line end behind the chunk
		if line, lineErr := c.r.ReadLine(); lineErr != nil {
			err = lineErr
		} else if line != "" {
			err = fmt.Errorf("%w: a chunk longer than its size", errProtocol)
		}
	}
	return n, noEOF(err)
}

// noEOF: an answer that ends within its body was cut off.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

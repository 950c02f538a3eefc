package report

import (
	"fmt"
	"io"
	"time"
)

// Packet is one that a watch has seen of a pod.
type Packet struct {
	Time     time.Time `json:"time"`
	At       string    `json:"at"`             // where: "pod sends", "steer drops", …
	Drop     string    `json:"drop,omitempty"` // the counter that counts it
	Rule     string    `json:"rule,omitempty"` // nftables table and chain that dropped it
	From     string    `json:"from"`           // address:port, address, or MAC of what is not IP
	To       string    `json:"to"`
	Protocol string    `json:"protocol"`
	Detail   string    `json:"detail,omitempty"` // flags of TCP, type of ICMP
	Length   int       `json:"length"`           // of the frame, in bytes
	Lost     uint64    `json:"lost,omitempty"`   // packets that were not shown; then nothing else is set
}

// WriteText writes a line.
func (p Packet) WriteText(w io.Writer) error {
	at := p.Time.Format("15:04:05.000000")
	if p.Lost > 0 {
		_, err := fmt.Fprintf(w, "%s  %d more packets, beyond --rate, are not shown\n", at, p.Lost)
		return err
	}
	what := p.Protocol
	if p.Detail != "" {
		what += " " + p.Detail
	}
	if p.Drop != "" {
		what += ": dropped, counted as " + p.Drop
	}
	if p.Rule != "" {
		what += ": dropped by " + p.Rule
	}
	_, err := fmt.Fprintf(w, "%s  %-13s  %s → %s  %d bytes  %s\n", at, p.At, p.From, p.To, p.Length, what)
	return err
}

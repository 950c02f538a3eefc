//go:build linux

package proxy

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

func connect(options ...nftables.ConnOption) (*nftables.Conn, error) {
	conn, err := nftables.New(append(options, nftables.WithSockOptions(func(c *netlink.Conn) error {
		// One acknowledgement for each message of a transaction waits there until all are sent, and rules are echoed besides. The
		// message that has the whole transaction must fit in the other.
		return errors.Join(c.SetReadBuffer(32<<20), c.SetWriteBuffer(32<<20))
	}))...)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return conn, nil
}

// begin a transaction on the one connection. Who closes a socket of netfilter, any at all, waits until the kernel has freed what transactions
// removed, some ten milliseconds, and nobody can begin another one meanwhile (nft_rcv_nl_event). So it stays open, until there is an error,
// after which answers may be left on it.
func (p *Proxy) begin() (*transaction, error) {
	if p.conn == nil {
		conn, err := connect(nftables.AsLasting())
		if err != nil {
			return nil, err
		}
		p.conn = conn
	}
	return begin(p.conn), nil
}

func (p *Proxy) commit(tx *transaction) error {
	if err := tx.commit(); err != nil {
		p.hangUp()
		return err
	}
	p.gen++
	return nil
}

func (p *Proxy) hangUp() {
	if p.conn != nil {
		_ = p.conn.CloseLasting()
		p.conn = nil
	}
}

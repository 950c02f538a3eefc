// Noop is the least that a CNI IPAM plugin in Go can do: it reads its configuration and prints the same result whatever it says.
package main

import (
	"io"
	"os"
)

const result = `{"cniVersion":"1.1.0","ips":[{"address":"10.210.0.1/16","gateway":"10.210.0.254"}],"dns":{}}`

func main() {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		os.Exit(1)
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		if _, err := os.Stdout.WriteString(result); err != nil {
			os.Exit(1)
		}
	}
}

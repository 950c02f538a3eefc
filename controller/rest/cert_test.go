package rest

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSelfSigned(t *testing.T) {
	now := time.Now()
	for _, dir := range []string{"", t.TempDir()} {
		c, err := newCertificate(dir, "berth-system", now)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert.Leaf)
		for _, name := range []string{"berth-rest", "berth-rest.berth-system.svc", "localhost", "127.0.0.1"} {
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		spki := sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
		if want := "sha256//" + base64.StdEncoding.EncodeToString(spki[:]); c.pin != want || c.watch != nil {
			t.Errorf("pin %s, want %s", c.pin, want)
		}
	}
}

func TestCertificateFiles(t *testing.T) {
	write := func(dir string) *tls.Certificate {
		c, err := selfSigned("test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: key}} {
			if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	dir := t.TempDir()
	first := write(dir)
	c, err := newCertificate(dir, "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.watch(t.Context()) }()
	shows := func(want *tls.Certificate) bool {
		got, err := c.get(nil)
		return err == nil && string(got.Certificate[0]) == string(want.Certificate[0])
	}
	if !shows(first) {
		t.Error("the file's certificate is not shown")
	}
	second := write(dir)
	for range 600 { // certwatcher looks every 10 s, too
		if shows(second) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !shows(second) {
		t.Error("the renewed certificate is not shown")
	}

	for name, breakIt := range map[string]func(dir string) error{
		"no key":  func(d string) error { return os.Remove(filepath.Join(d, "tls.key")) },
		"no cert": func(d string) error { return os.Remove(filepath.Join(d, "tls.crt")) },
		"rubbish": func(d string) error { return os.WriteFile(filepath.Join(d, "tls.crt"), []byte("rubbish"), 0o600) },
	} {
		d := t.TempDir()
		write(d)
		if err := breakIt(d); err != nil {
			t.Fatal(err)
		}
		if _, err := newCertificate(d, "test", time.Now()); err == nil || !strings.Contains(err.Error(), "--rest-cert-dir "+d) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

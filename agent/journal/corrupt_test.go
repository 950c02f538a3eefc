package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sample is the content of a journal with branch pages, overflow pages and free pages.
func sample(t testing.TB, n int) []byte {
	t.Helper()
	file := newFile(t)
	j := mustOpen(t, file)
	j.SetNode(KeyPrefixes, []byte(`{"Services":["10.96.0.0/16"]}`))
	for i := range n {
		e := entry(fmt.Sprint("p", i), fmt.Sprintf("s%03d", i), fmt.Sprintf("10.0.0.%d", i))
		e.Result = fmt.Appendf(nil, `{"ips":[%q]}`, strings.Repeat("x", 200+i%3*3000))
		j.Put(e)
	}
	for i := range n / 3 {
		if _, err := j.Release(fmt.Sprintf("s%03d", i*3), "net1", j.Interface(fmt.Sprintf("s%03d", i*3), "net1").Leases, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// reopen a file with this content, write to it, and open it again. It says whether the content was set aside.
func reopen(t testing.TB, dir string, content []byte) (aside bool, seen []string) {
	t.Helper()
	file := filepath.Join(dir, "journal.db")
	old, _ := filepath.Glob(file + "*")
	for _, o := range old {
		os.Remove(o)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, file)
	seen = list(j)
	if err := put(j, entry("new", "new", "10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	before, _ := filepath.Glob(file + ".corrupt-*")
	k := mustOpen(t, file)
	defer k.Close()
	if len(k.Entries())+len(k.Releases()) != len(seen)+1 {
		t.Errorf("%d of %d known after a write", len(k.Entries())+len(k.Releases()), len(seen)+1)
	}
	if after, _ := filepath.Glob(file + ".corrupt-*"); len(after) > len(before) {
		t.Error("what was accepted once is set aside after a write to it")
	}
	return len(before) > 0, seen
}

func TestTorn(t *testing.T) {
	content := sample(t, 60)
	dir, page := t.TempDir(), os.Getpagesize()
	_, whole := reopen(t, dir, content)
	if len(whole) != 60 {
		t.Fatalf("%d in the sample", len(whole))
	}
	var cuts []int
	for at := 0; at <= len(content); at += page { // each page boundary, and beside it
		cuts = append(cuts, at, at+1, at+16, at+page/2)
	}
	for _, at := range cuts {
		if at > len(content) {
			continue
		}
		aside, seen := reopen(t, dir, content[:at])
		// Beyond the last page in use the file may end: then nothing is missing.
		if at > 0 && !aside && len(seen) != len(whole) || aside && len(seen) != 0 {
			t.Errorf("cut at %d of %d: set aside %t, %d known", at, len(content), aside, len(seen))
		}
	}
	for at := page; at < len(content); at += page { // a page that was never written
		torn := append([]byte(nil), content...)
		clear(torn[at : at+page])
		if aside, seen := reopen(t, dir, torn); !aside && len(seen) < len(whole)-1 {
			t.Errorf("page %d is zero: %d known of %d", at/page, len(seen), len(whole))
		}
	}
}

// A flipped bit is noticed, or is where nothing is read. Where it is in a meta page, the state before the last transaction counts.
func TestBitFlips(t *testing.T) {
	content := sample(t, 20)
	dir := t.TempDir()
	_, whole := reopen(t, dir, content)
	random := rand.New(rand.NewPCG(1, 2))
	flips := 1500
	if testing.Short() {
		flips = 200
	}
	for range flips {
		bit := random.IntN(len(content) * 8)
		if random.IntN(2) == 0 { // the headers, where it matters most
			bit = random.IntN(len(content)/os.Getpagesize())*os.Getpagesize()*8 + random.IntN(80*8)
		}
		flipped := append([]byte(nil), content...)
		flipped[bit/8] ^= 1 << (bit % 8)
		aside, seen := reopen(t, dir, flipped)
		inMeta := bit/8 < 2*os.Getpagesize()
		if !aside && !inMeta && strings.Join(seen, "\n") != strings.Join(whole, "\n") {
			t.Errorf("bit %d of byte %d: unnoticed, and now %d known", bit%8, bit/8, len(seen))
		}
	}
}

// A page that a bucket had once is whole, and so are its records: nothing but the sum of all of them says that it is old.
func TestOldPages(t *testing.T) {
	content, dir, page := sample(t, 20), t.TempDir(), os.Getpagesize()
	_, whole := reopen(t, dir, content)
	v := verifier{file: content, pageSize: uint64(page)}
	meta := v.meta(0)
	if other := v.meta(1); order.Uint64(other[48:]) > order.Uint64(meta[48:]) {
		meta = other
	}
	root := content[order.Uint64(meta[16:])*uint64(page):]
	for i := range int(order.Uint16(root[10:])) {
		key, e, err := cell(root, i)
		if err != nil {
			t.Fatal(err)
		}
		bucket := root[at(i)+uint64(order.Uint32(e[4:]))+uint64(len(key)):]
		was := order.Uint64(bucket)
		for id := range uint64(len(content) / page) {
			order.PutUint64(bucket, id)
			if aside, seen := reopen(t, dir, content); !aside && !slices.Equal(seen, whole) {
				t.Errorf("page %d for page %d of bucket %s: unnoticed, and now %d known of %d", id, was, key, len(seen), len(whole))
			}
		}
		order.PutUint64(bucket, was)
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"text": []byte("hello"), "zeros": make([]byte, 64<<10), "ones": []byte(strings.Repeat("\xff", 64<<10)), "loop": loop(sample(t, 60)),
	} {
		if aside, seen := reopen(t, dir, content); !aside || len(seen) != 0 {
			t.Errorf("%s: set aside %t, %d known", name, aside, len(seen))
		}
	}
	// At most three are kept.
	file := filepath.Join(dir, "journal.db")
	for range 5 {
		if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, file).Close()
	}
	if kept, _ := filepath.Glob(file + ".corrupt-*"); len(kept) != keptAside {
		t.Errorf("kept %v", kept)
	}
}

// loop has branch pages point to themselves: bbolt's own check would recurse until the stack is full.
func loop(content []byte) []byte {
	page := os.Getpagesize()
	for at := 2 * page; at < len(content); at += page {
		b := content[at:]
		for i := range int(order.Uint16(b[10:])) {
			if order.Uint16(b[8:]) == flagBranch {
				order.PutUint64(b[pageHeader+i*elementSize+8:], uint64(at/page))
			}
		}
	}
	return content
}

// FuzzOpen: whatever the file holds, it is a journal or is set aside; nothing panics, hangs, or reads outside of the file. The check
// sums of the meta pages are made right, or nothing else would ever be looked at.
func FuzzOpen(f *testing.F) {
	f.Add(sample(f, 5), uint16(0), byte(0))
	f.Add(sample(f, 40), uint16(3), byte(17))
	f.Add(loop(sample(f, 60)), uint16(0), byte(0))
	f.Add([]byte{}, uint16(0), byte(0))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, page uint16, xor byte) {
		if at := int(page) * os.Getpagesize(); at+64 < len(content) {
			content[at+int(xor)%64] ^= xor
		}
		for n := range 2 {
			if at := n*os.Getpagesize() + pageHeader; len(content) >= at+metaSum+8 {
				h := fnv.New64a()
				h.Write(content[at:][:metaSum])
				order.PutUint64(content[at+metaSum:], h.Sum64())
			}
		}
		reopen(t, dir, content)
	})
}

const writerEnv = "BERTH_TEST_JOURNAL"

// TestMain is also the process that TestKill kills: it writes entries and says which are acknowledged.
func TestMain(m *testing.M) {
	file := os.Getenv(writerEnv)
	if file == "" {
		os.Exit(m.Run())
	}
	j, err := Open(context.Background(), file, time.Now, quiet)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	start, _ := strconv.Atoi(os.Getenv(writerEnv + "_START"))
	for w := range 4 {
		go func() {
			for i := start + w; ; i += 4 {
				if err := put(j, entry(fmt.Sprint("p", i), fmt.Sprint("s", i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))); err != nil {
					fmt.Println("error", err)
				}
				fmt.Println("done", fmt.Sprint("s", i))
				if i%5 == 0 {
					if _, err := j.Release(fmt.Sprint("s", i), "net1", j.Interface(fmt.Sprint("s", i), "net1").Leases, false); err != nil {
						fmt.Println("error", err)
					}
					fmt.Println("released", fmt.Sprint("s", i))
				}
			}
		}()
	}
	select {}
}

// A process killed at any point has in its file all that it said it had, and the file is not set aside.
func TestKill(t *testing.T) {
	file := newFile(t)
	held, released := map[string]bool{}, map[string]bool{}
	random := rand.New(rand.NewPCG(3, 4))
	for run := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+file, fmt.Sprint(writerEnv, "_START=", run*10000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := 1 + random.IntN(150)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			what, id, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "done":
				held[id] = true
			case "released":
				released[id] = true
			default:
				t.Fatal(lines.Text())
			}
			if n == after {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := lines.Err(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		cmd.Wait() //nolint:errcheck // it was killed
		j := mustOpen(t, file)
		for id := range held {
			e := j.Interface(id, "net1")
			if e == nil && !isReleased(j, id) || e != nil && released[id] {
				t.Fatalf("%s: entry %v, released %t", id, e, released[id])
			}
		}
		j.Close()
	}
	if aside, _ := filepath.Glob(file + ".corrupt-*"); len(aside) > 0 {
		t.Errorf("set aside: %v", aside)
	}
	t.Logf("%d entries, %d released", len(held), len(released))
}

func isReleased(j *Journal, sandbox string) bool {
	for _, r := range j.Releases() {
		if r.Holder.ContainerID == sandbox {
			return true
		}
	}
	return false
}

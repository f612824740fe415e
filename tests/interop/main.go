// Checks a custodian's published log with an implementation that is not ours:
// golang.org/x/mod's sumdb/note and sumdb/tlog, and net/http. Of its own it has
// only what they lack: C2SP's checkpoint text, tile paths without a height,
// and a verifier for cosignature/v1.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run main.go \
//	    -url https://HOST:PORT -ca ca.crt -log VKEY [-witness VKEY]... [-quorum N] [-token FILE]
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newCosigner(vkey string) (*cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("a verifier key has three parts")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	if len(key) != 1+ed25519.PublicKeySize || key[0] != 4 {
		return nil, errors.New("not a key for cosignature/v1")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	hash := binary.BigEndian.Uint32(sum[:4])
	if fmt.Sprintf("%08x", hash) != parts[1] {
		return nil, errors.New("the key's id is another one")
	}
	return &cosigner{parts[0], hash, key[1:]}, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	seconds := binary.BigEndian.Uint64(sig)
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", seconds, msg)
	return ed25519.Verify(c.key, []byte(signed), sig[8:])
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type source struct {
	base   string
	client *http.Client
	token  string
}

func (s *source) get(path string) ([]byte, error) {
	request, err := http.NewRequest("GET", s.base+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	reply, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, 64<<20))
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, reply.Status)
	}
	return body, err
}

// Height, ReadTiles and SaveTiles make a source a tlog.TileReader.
func (s *source) Height() int { return tileHeight }
func (s *source) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := strings.TrimPrefix(tile.Path(), "tile/8/")
		data, err := s.get("tile/" + path)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}
func (s *source) SaveTiles([]tlog.Tile, [][]byte) {}

func parse(text, origin string) (tlog.Tree, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] != origin {
		return tlog.Tree{}, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// entries compares every entry with its hash in the tree.
func entries(s *source, tree tlog.Tree, hashes tlog.HashReader) (int64, error) {
	var seen int64
	for start := int64(0); start < tree.N; start += 256 {
		width := tree.N - start
		if width > 256 {
			width = 256
		}
		tile := tlog.Tile{H: tileHeight, L: 0, N: start / 256, W: int(width)}
		path := strings.TrimPrefix(tile.Path(), "tile/8/0/")
		data, err := s.get("tile/entries/" + path)
		if err != nil {
			return seen, err
		}
		for n := int64(0); n < width; n++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return seen, fmt.Errorf("bundle %d breaks off", tile.N)
			}
			length := 2 + int(binary.BigEndian.Uint16(data))
			entry := data[2:length]
			data = data[length:]
			want, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, start+n)})
			if err != nil {
				return seen, err
			}
			if tlog.RecordHash(entry) != want[0] {
				return seen, fmt.Errorf("entry %d has another hash", start+n)
			}
			if !json.Valid(entry) {
				return seen, fmt.Errorf("entry %d is not JSON", start+n)
			}
			seen++
		}
		if len(data) != 0 {
			return seen, fmt.Errorf("bundle %d goes on", tile.N)
		}
	}
	return seen, nil
}

func run() (map[string]int64, error) {
	var witnesses list
	url := flag.String("url", "", "the audit plane")
	ca := flag.String("ca", "", "PEM file with its CA")
	log := flag.String("log", "", "the log's verifier key")
	quorum := flag.Int("quorum", 0, "cosignatures that must hold")
	token := flag.String("token", "", "file with an auditor's token: entries are read, too")
	flag.Var(&witnesses, "witness", "a witness's verifier key; may be repeated")
	flag.Parse()

	pem, err := os.ReadFile(*ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + *ca)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	s := &source{base: *url, client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
	if *token != "" {
		text, err := os.ReadFile(*token)
		if err != nil {
			return nil, err
		}
		s.token = strings.TrimSpace(string(text))
	}

	own, err := note.NewVerifier(*log)
	if err != nil {
		return nil, err
	}
	known := []note.Verifier{own}
	for _, vkey := range witnesses {
		c, err := newCosigner(vkey)
		if err != nil {
			return nil, err
		}
		known = append(known, c)
	}
	message, err := s.get("checkpoint")
	if err != nil {
		return nil, err
	}
	opened, err := note.Open(message, note.VerifierList(known...))
	if err != nil {
		return nil, err
	}
	signed, cosigned := false, 0
	for _, sig := range opened.Sigs {
		if sig.Name == own.Name() && sig.Hash == own.KeyHash() {
			signed = true
		} else {
			cosigned++
		}
	}
	if !signed || cosigned < *quorum {
		return nil, fmt.Errorf("signed by the log: %v, cosigned by %d of %d", signed, cosigned, *quorum)
	}
	tree, err := parse(opened.Text, own.Name())
	if err != nil {
		return nil, err
	}

	// Reading through TileHashReader authenticates every tile against the tree.
	hashes := tlog.TileHashReader(tree, s)
	var records, trees int64
	for n := int64(0); n < tree.N; n++ {
		if n > 300 && n%97 != 0 && n != tree.N-1 {
			continue
		}
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, n)})
		if err != nil {
			return nil, err
		}
		proof, err := tlog.ProveRecord(tree.N, n, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, leaf[0]); err != nil {
			return nil, fmt.Errorf("entry %d: %v", n, err)
		}
		records++
		old := n + 1
		root, err := tlog.TreeHash(old, hashes)
		if err != nil {
			return nil, err
		}
		grown, err := tlog.ProveTree(tree.N, old, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckTree(grown, tree.N, tree.Hash, old, root); err != nil {
			return nil, fmt.Errorf("tree of %d: %v", old, err)
		}
		trees++
	}
	out := map[string]int64{"size": tree.N, "cosigned": int64(cosigned), "records": records, "trees": trees}
	if s.token != "" {
		if out["entries"], err = entries(s, tree, hashes); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func main() {
	out, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(out)
}

package leftover

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// Secrets are the bytes to search for, each of at least 8 bytes, by name. The name of a secret is
// its kind, or its kind and a number.
type Secrets map[string][]byte

// Place is where a copy of a secret was found.
type Place struct {
	Area     string // as in /proc/PID/maps
	Flags    string // VmFlags of /proc/PID/smaps
	Expanded bool   // the secret begins an expanded AES-256 key, as crypto/aes has it
}

// InCoreDump reports whether a core dump of the process would have the copy.
func (p Place) InCoreDump() bool { return !slices.Contains(strings.Fields(p.Flags), "dd") }

// Found has the places of all copies, by the name of the secret. Secrets without copies are not in
// it.
type Found map[string][]Place

// Count is a number of copies.
type Count struct{ Alone, Expanded int }

// Counts returns the number of copies of each kind of secret, and logs it.
func (f Found) Counts(t testing.TB, phase string) map[string]Count {
	t.Helper()
	counts := make(map[string]Count)
	for name, places := range f {
		kind := strings.TrimRight(name, " 0123456789")
		c := counts[kind]
		for _, at := range places {
			if at.Expanded {
				c.Expanded++
			} else {
				c.Alone++
			}
		}
		counts[kind] = c
	}
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		c := counts[kind]
		t.Logf("%-12s %-32s %3d copies, and %3d expanded for AES by crypto/aes", phase, kind, c.Alone, c.Expanded)
	}
	return counts
}

// Search finds all copies of secrets in the memory of the process, those in freed memory, too. If
// the system does not show it, the test is skipped.
func (p *Process) Search(t testing.TB, secrets Secrets) Found {
	t.Helper()
	pid := p.command.Process.Pid
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Skip("the memory of a process can't be read here:", err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Skip("the memory of a process can't be read here:", err)
	}
	defer memory.Close()
	names := make(map[string][]string) // by the first 8 bytes
	var begins [1 << 16]bool           // whether a secret begins with these 2 bytes
	for name, s := range secrets {
		begins[int(s[0])<<8|int(s[1])] = true
		names[string(s[:8])] = append(names[string(s[:8])], name)
	}
	found := make(Found)
	var from, to int64
	var area string
	for line := range strings.Lines(string(smaps)) {
		var start, end int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &start, &end, &mode); n == 3 {
			from, to, area = start, end, strings.TrimSpace(line)
			if !strings.HasPrefix(mode, "rw") {
				from, to = 0, 0
			}
			continue
		}
		flags, isFlags := strings.CutPrefix(line, "VmFlags:")
		if !isFlags || from == to {
			continue
		}
		buf := make([]byte, to-from)
		n, _ := memory.ReadAt(buf, from) // what the system does not show is not searched
		buf = buf[:n]
		for at := 0; at+8 <= n; at++ {
			if !begins[int(buf[at])<<8|int(buf[at+1])] {
				continue
			}
			for _, name := range names[string(buf[at:at+8])] {
				s := secrets[name]
				if !bytes.HasPrefix(buf[at:], s) {
					continue
				}
				expanded := len(s) == 32 && bytes.HasPrefix(buf[at+32:], thirdRoundKey(s))
				found[name] = append(found[name], Place{area, strings.TrimSpace(flags), expanded})
			}
		}
	}
	return found
}

// thirdRoundKey returns the first 4 bytes after the key in an AES-256 key that is expanded (FIPS
// 197, section 5.2).
func thirdRoundKey(key []byte) []byte {
	b := []byte{substitute(key[29]) ^ 1, substitute(key[30]), substitute(key[31]), substitute(key[28])}
	for i := range b {
		b[i] ^= key[i]
	}
	return b
}

// substitute is the S-box of AES (FIPS 197, section 5.1.1).
func substitute(x byte) byte {
	inverse := byte(1)
	for range 254 { // x to the power 254
		inverse = multiply(inverse, x)
	}
	y := inverse
	for i := 1; i <= 4; i++ {
		y ^= inverse<<i | inverse>>(8-i)
	}
	return y ^ 0x63
}

func multiply(a, b byte) (p byte) {
	for range 8 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a&0x80 != 0
		a <<= 1
		if carry {
			a ^= 0x1b
		}
		b >>= 1
	}
	return p
}

// HMACKeys returns a key in the two forms that crypto/hmac makes of it, without what follows (FIPS
// 198-1, section 4). The key is no longer than a block of the hash.
func HMACKeys(key []byte) (inner, outer []byte) {
	inner, outer = bytes.Clone(key), bytes.Clone(key)
	for i := range key {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return inner, outer
}

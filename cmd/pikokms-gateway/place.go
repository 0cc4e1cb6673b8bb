package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// place is the part of the gateway's objects that a KEY is for: a bucket, or what is below a prefix
// in it. The bucket, and folders in the prefix, can be written {NAME}, which matches any name. An
// object's encryption context then has the pair NAME with the name that was matched.
type place struct {
	text  string
	parts []string // the bucket, and what stands between the slashes of the prefix
}

// parsePlace returns the place that is written BUCKET or BUCKET/PREFIX.
func parsePlace(text string) (*place, error) {
	if !strings.Contains(text, "/") {
		text += "/"
	}
	p := &place{text, strings.Split(text, "/")}
	names := make(map[string]string)
	for i, part := range p.parts {
		name, ok := nameOf(part)
		switch {
		case !ok && strings.ContainsAny(part, "{}"):
			return nil, errors.New("{NAME} stands for a bucket or a folder as a whole")
		case !ok:
			continue
		case i > 0 && i == len(p.parts)-1:
			return nil, fmt.Errorf("{%s} stands for a folder: write {%s}/", name, name)
		}
		if _, twice := names[name]; twice || strings.ContainsAny(name, "{}") {
			return nil, fmt.Errorf("{%s} is there twice, or is no name", name)
		}
		names[name] = "x"
	}
	return p, errors.Join(header.CheckContext(names), provider.CheckStated(names))
}

// nameOf returns the NAME in {NAME}.
func nameOf(part string) (string, bool) {
	name, begins := strings.CutPrefix(part, "{")
	name, ends := strings.CutSuffix(name, "}")
	return name, begins && ends && name != ""
}

// String returns the place as it was written. It is empty for nil.
func (p *place) String() string {
	if p == nil {
		return ""
	}
	return p.text
}

// has reports whether objects of the place have the pair name.
func (p *place) has(name string) bool { return p != nil && slices.Contains(p.parts, "{"+name+"}") }

// equal reports whether the same objects are in both places.
func (p *place) equal(other *place) bool {
	return p != nil && other != nil && slices.EqualFunc(p.parts, other.parts, func(x, y string) bool {
		_, anyX := nameOf(x)
		_, anyY := nameOf(y)
		return x == y || anyX && anyY
	})
}

// match is how closely a place matches an object.
type match struct {
	named      bool // the place has the name of the bucket, not {NAME}
	everywhere bool // the place is nil
	length     int  // bytes of the key that the place matches
	exact      int  // those of them that the place spells out, rather than matches by {NAME}
	pairs      map[string]string
}

// nearer reports whether m is a closer match than other.
func (m match) nearer(other match) bool {
	switch {
	case m.everywhere != other.everywhere:
		return other.everywhere
	case m.named != other.named:
		return m.named
	case m.length != other.length:
		return m.length > other.length
	}
	return m.exact > other.exact
}

// match returns how closely the place matches an object, if it does. A nil place matches every
// object.
func (p *place) match(bucket, key string) (m match, ok bool) {
	if p == nil {
		return match{everywhere: true}, true
	}
	take := func(part, text string) bool {
		name, isAny := nameOf(part)
		if isAny && text != "" {
			if m.pairs == nil {
				m.pairs = make(map[string]string, 1)
			}
			m.pairs[name] = text
		}
		return isAny && text != "" || part == text
	}
	if !take(p.parts[0], bucket) {
		return match{}, false
	}
	m.named = len(m.pairs) == 0
	for i, part := range p.parts[1:] {
		if i == len(p.parts)-2 { // the last part is the beginning of a name
			m.length, m.exact = m.length+len(part), m.exact+len(part)
			return m, strings.HasPrefix(key, part)
		}
		folder, rest, more := strings.Cut(key, "/")
		if !more || !take(part, folder) {
			return match{}, false
		}
		m.length += len(folder) + 1
		if folder == part {
			m.exact += len(folder) + 1
		}
		key = rest
	}
	return m, true
}

package work

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"unicode/utf8"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
)

// selection is the objects that --include and --exclude take.
type selection struct{ included, excluded globs }

// takes reports whether the flags select a key. The key of a folder ends in a slash.
func (w *selection) takes(key string) bool {
	included, excluded := w.included.Match(key), w.excluded.Match(key)
	return (len(w.included) == 0 || included) && !excluded
}

// isNothingIn reports whether --exclude leaves out everything in a folder. It tests a name that
// only wildcards match.
func (w *selection) isNothingIn(folder string) bool { return w.excluded.Match(folder + "\x00/\x00") }

// sayUnused warns of globs that matched nothing.
func (w *selection) sayUnused() {
	w.included.sayUnused("--include")
	w.excluded.sayUnused("--exclude")
}

func (all globs) sayUnused(flag string) {
	for _, g := range all {
		if !g.used {
			console.Say(slog.LevelWarn, fmt.Sprintf("%s %q matches nothing", flag, g.text), "flag", flag, "glob", g.text)
		}
	}
}

// glob is a pattern of names. A folder that it matches is matched with all that is below it.
type glob struct {
	text    string
	pattern *regexp.Regexp
	whole   bool // matches the whole name, rather than one part of it
	folder  bool // matches folders alone
	used    bool // it has matched something
}

type globs []*glob

func ParseGlobs(texts []string) (all globs, err error) {
	for _, text := range texts {
		rest, folder := strings.CutSuffix(text, "/")
		switch {
		case rest == "":
			return nil, errors.New("an empty glob matches nothing")
		case !utf8.ValidString(text):
			return nil, fmt.Errorf("the glob %q is not UTF-8; ? stands for each such byte", text)
		}
		all = append(all, &glob{text: text, pattern: compileGlob(strings.TrimPrefix(rest, "/")), whole: strings.Contains(rest, "/"), folder: folder})
	}
	return all, nil
}

// Match reports whether one of the globs matches, and notes which do.
func (all globs) Match(key string) (matched bool) {
	for _, g := range all {
		if matched && g.used {
			continue
		}
		if g.match(key) {
			matched, g.used = true, true
		}
	}
	return matched
}

func (g *glob) match(key string) bool {
	for begin, end := 0, 0; end < len(key); begin = end + 1 {
		length := strings.IndexByte(key[begin:], '/')
		isFolder := length >= 0
		if end = begin + length; !isFolder {
			end = len(key)
		}
		if g.folder && !isFolder {
			return false
		}
		part := key[begin:end]
		if g.whole {
			part = key[:end]
		}
		if g.pattern.MatchString(part) {
			return true
		}
		if end == len(key)-1 && isFolder {
			return false
		}
	}
	return false
}

func compileGlob(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString(`(?:.*/)?`)
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		case rest[0] == '?':
			b.WriteString(`[^/]`)
			rest = rest[1:]
		default:
			n := strings.IndexAny(rest, "*?")
			if n < 0 {
				n = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			rest = rest[n:]
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

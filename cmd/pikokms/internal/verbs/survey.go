package verbs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
)

// surveyed is an object in the JSON lines of inspect. The form is stable.
type surveyed struct {
	Name    string       `json:"name"`
	Kind    string       `json:"kind"`             // encrypted, plain, piko-v2, s3-client, damaged, unreadable, or left-out
	Size    int64        `json:"size"`             // in bytes, as stored
	Error   string       `json:"error,omitempty"`  // why it is damaged, unreadable or left out
	Message *look.Report `json:"message,omitzero"` // of a header that can be read
	Client  *look.Client `json:"s3_client,omitzero"`
}

// group counts the objects that are under one key, or those of one kind that are under none.
type group struct{ objects, bytes int64 }

// survey shows the headers of the objects of IN, and how many objects are under each key.
func survey(ctx context.Context, e *work.Each, w io.Writer, asJSON bool, arguments []string) error {
	p, err := e.Open(ctx, arguments)
	if err != nil {
		return err
	}
	defer p.Close()
	groups := make(map[string]*group)
	failed := int64(0)
	if !asJSON {
		if _, err := fmt.Fprintf(w, "%14s  %-10s  %-6s  %s\n", "SIZE", "KIND", "SUITE", "NAME AND KEYS"); err != nil {
			return err
		}
	}
	for _, u := range p.Unlisted {
		s := surveyed{Name: p.TitleOf(u), Kind: "unreadable", Error: u.Reason}
		if err := s.show(w, asJSON); err != nil {
			return err
		}
	}
	for i := range p.LeftOut() {
		s := surveyed{Name: i.Title(), Kind: look.KindLeftOut, Error: places.LeftKinds[i.Left].Reason}
		if err := s.show(w, asJSON); err != nil {
			return err
		}
	}
	err = e.ExamineAll(ctx, p, func(x *look.Object) error {
		s := surveyed{Name: x.Name, Kind: x.Kind, Size: x.Size, Message: x.Report, Client: x.ClientReport()}
		if s.Kind == "" {
			s.Kind = "unreadable"
		}
		if x.Err != nil {
			failed++
			s.Error = console.Explain(x.Err)
		}
		for _, name := range s.groups() {
			if groups[name] == nil {
				groups[name] = &group{}
			}
			groups[name].objects++
			groups[name].bytes += x.Size
		}
		return s.show(w, asJSON)
	})
	if err == nil && !asJSON {
		err = printGroups(w, groups)
	}
	if err == nil {
		err = p.Unread(failed, "could not be read or cannot be whole")
	}
	if err == nil && p.LeftContent() > 0 {
		err = errors.New(p.LeftAdvice())
	}
	return err
}

func (s *surveyed) show(w io.Writer, asJSON bool) error {
	if asJSON {
		return s.printLine(w)
	}
	return s.print(w)
}

// groups returns the groups that an object counts for: those of its keys, or that of its kind.
func (s *surveyed) groups() []string {
	if s.Message == nil {
		return []string{"(" + s.Kind + ")"}
	}
	names := make([]string, len(s.Message.EncryptedDataKeys))
	for i, k := range s.Message.EncryptedDataKeys {
		names[i] = k.Name()
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *surveyed) print(w io.Writer) error {
	suite, about := "-", s.Error
	if s.Message != nil {
		suite = s.Message.SuiteID
		about = strings.Join(append(s.groups(), s.Error), " ")
	}
	if s.Client != nil {
		about = s.Client.Text()
	}
	_, err := fmt.Fprintf(w, "%14d  %-10s  %-6s  %s\n", s.Size, s.Kind, suite, strings.TrimSpace(console.Printable(s.Name)+" "+about))
	return err
}

func (s *surveyed) printLine(w io.Writer) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = w.Write(append(console.EscapeControls(text), '\n'))
	return err
}

func printGroups(w io.Writer, groups map[string]*group) error {
	if _, err := fmt.Fprintf(w, "\n%14s  %14s  %s\n", "OBJECTS", "BYTES", "KEY"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if _, err := fmt.Fprintf(w, "%14d  %14d  %s\n", groups[name].objects, groups[name].bytes, name); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\nNot verified: only decrypting with a key tells whether this is true.\n")
	return err
}

package keyurl

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"piko.sh/pikokms/provider"
)

// The byte order marks that editors and shells of Windows write.
const (
	markUTF8  = "\ufeff"
	markUTF16 = "\xff\xfe"
	markBig16 = "\xfe\xff"
)

// textError is an error about the text of a key. It holds provider.ErrInvalidKey.
type textError struct{ error }

func (textError) Is(target error) bool { return target == provider.ErrInvalidKey }

func (e textError) Unwrap() error { return e.error }

func refuse(format string, arguments ...any) error {
	return textError{fmt.Errorf(format, arguments...)}
}

// ParseURL parses the URL of a key of one of the services, or of something with URLs of the same
// form, such as a table of keys. It removes white space and a byte order mark, which files and
// other programs leave around a text. It replaces ~/ at the beginning of a path by the user's home
// folder, since a shell does not do that within a word. The scheme may be unknown. The error holds
// provider.ErrInvalidKey, and shows nothing that may be secret.
func ParseURL(text string, services ...Service) (*url.URL, error) {
	if strings.HasPrefix(text, markUTF16) || strings.HasPrefix(text, markBig16) {
		return nil, refuse("it is UTF-16, as shells of Windows write files; save it as UTF-8")
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, markUTF8))
	if unquoted := strings.Trim(text, `"'`); unquoted != text {
		return nil, refuse("it has quotes around it, which are no part of a URL")
	}
	for _, service := range services {
		if service.Meant == nil {
			continue
		}
		if meant := service.Meant(text); meant != "" {
			return nil, refuse("%q is not a URL; write %s", text, meant)
		}
	}
	u, err := provider.ParseURL(text)
	if err != nil {
		hint := ""
		if scheme, _, ok := strings.Cut(text, "://arn:"); ok {
			hint = fmt.Sprintf("; an ARN stands behind three slashes, %s:///ARN", scheme)
		}
		return nil, refuse("not a URL: %w%s", err, hint)
	}
	return u, expandHome(u, services)
}

// expandHome replaces a ~ at the beginning of paths in a URL by the user's home folder.
func expandHome(u *url.URL, services []Service) error {
	if path, err := url.PathUnescape(u.Opaque); err == nil {
		expanded, err := inHome(path)
		if err != nil {
			return err
		}
		if expanded != path {
			u.Opaque = (&url.URL{Path: expanded}).EscapedPath()
		}
	}
	query, changed := u.Query(), false
	for _, service := range services {
		if service.Scheme != u.Scheme {
			continue
		}
		for name, values := range query {
			if !slices.Contains(service.Paths, name) {
				continue
			}
			for i, value := range values {
				scheme, path := "", value
				if before, after, ok := strings.Cut(value, ":"); ok && strings.HasPrefix(after, "~/") && !strings.Contains(before, "/") {
					scheme, path = before+":", after
				}
				expanded, err := inHome(path)
				if err != nil {
					return err
				}
				changed = changed || expanded != path
				values[i] = scheme + expanded
			}
		}
	}
	if changed {
		u.RawQuery = query.Encode()
	}
	return nil
}

// inHome returns a path with the user's home folder in place of a ~ at its beginning.
func inHome(path string) (string, error) {
	if !strings.HasPrefix(path, "~/") {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", refuse("there is no home folder for the path %s: %w", path, err)
	}
	return filepath.ToSlash(home) + path[1:], nil
}

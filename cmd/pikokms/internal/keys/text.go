package keys

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/vault"
)

// The byte order marks that editors and shells of Windows write.
const (
	ByteOrderMark = "\ufeff"
	markUTF16     = "\xff\xfe"
	markBig16     = "\xfe\xff"
)

// ParseURL parses the text of a KEY. What a file or another program has left around it is
// taken off, and a path that begins with ~/ is in the user's home folder. The error shows nothing
// that may be secret.
func ParseURL(text string) (*url.URL, error) {
	if strings.HasPrefix(text, markUTF16) || strings.HasPrefix(text, markBig16) {
		return nil, errors.New("it is UTF-16, as shells of Windows write files; save it as UTF-8")
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, ByteOrderMark))
	if unquoted := strings.Trim(text, `"'`); unquoted != text {
		return nil, errors.New("it has quotes around it, which are no part of a URL")
	}
	if meant := meantBy(text); meant != "" {
		return nil, fmt.Errorf("%q is not a URL; write %s", text, meant)
	}
	u, err := console.ParseURL(text)
	if err != nil {
		hint := ""
		if strings.HasPrefix(text, "awskms://arn:") {
			hint = "; an ARN stands behind three slashes, awskms:///ARN"
		}
		return nil, fmt.Errorf("not a URL: %w%s", err, hint)
	}
	return u, ExpandHome(u)
}

var (
	uuid    = regexp.MustCompile(`^(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
	drive   = regexp.MustCompile(`^[A-Za-z]:[\\/]`)
	account = regexp.MustCompile(`^arn:[^:]*:kms:`)
)

// meantBy returns the URL that a name stands for, as other tools take it, or nothing.
func meantBy(text string) string {
	isFile := func() bool { info, err := os.Stat(text); return err == nil && info.Mode().IsRegular() }
	switch {
	case account.MatchString(text):
		return awskms.Scheme + ":///" + text
	case strings.HasPrefix(text, "alias/"):
		return awskms.Scheme + "://" + text + "?region=REGION"
	case uuid.MatchString(text):
		return awskms.Scheme + "://" + text + "?region=REGION"
	case strings.HasPrefix(text, "projects/"):
		return gcpkms.Scheme + "://" + text
	case drive.MatchString(text):
		return local.Scheme + ":///" + (&url.URL{Path: strings.ReplaceAll(text, `\`, "/")}).EscapedPath()
	case strings.HasPrefix(text, "~/"), !strings.Contains(text, ":") && isFile():
		return local.Scheme + ":" + (&url.URL{Path: text}).EscapedPath()
	}
	return ""
}

// pathParameters are the parameters of KEYs whose values are paths, or URLs of key files.
var pathParameters = []string{"kubernetes-token-file", "master", "public-key", "secret-id-file", "trusted-master"}

// ExpandHome puts the user's home folder for a ~ at the beginning of a path, which a shell leaves
// alone within a word.
func ExpandHome(u *url.URL) error {
	home := ""
	expand := func(path string) (string, error) {
		if !strings.HasPrefix(path, "~/") {
			return path, nil
		}
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "", fmt.Errorf("there is no home folder for the path %s: %w", path, err)
		}
		return filepath.ToSlash(home) + path[1:], nil
	}
	var err error
	if u.Scheme == local.Scheme || u.Scheme == branchkey.Scheme {
		opaque, unescapeErr := url.PathUnescape(u.Opaque)
		if strings.HasPrefix(opaque, "~/") && unescapeErr == nil {
			if opaque, err = expand(opaque); err != nil {
				return err
			}
			u.Opaque = (&url.URL{Path: opaque}).EscapedPath()
		}
	}
	if u.Scheme != awskms.Scheme && u.Scheme != vault.Scheme && u.Scheme != branchkey.Scheme {
		return nil
	}
	query, changed := u.Query(), false
	for name, values := range query {
		if !slices.Contains(pathParameters, name) {
			continue
		}
		for i, value := range values {
			before, path := "", value
			if rest, ok := strings.CutPrefix(value, local.Scheme+":"); ok {
				before, path = local.Scheme+":", rest
			}
			if path, err = expand(path); err != nil {
				return err
			}
			changed = changed || before+path != value
			values[i] = before + path
		}
	}
	if changed {
		u.RawQuery = query.Encode()
	}
	return nil
}

// Redact returns a KEY as messages show it.
func Redact(u *url.URL) string { return provider.RedactURL(u.String()) }

package provider

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// URLParameters returns the query parameters of a URL that names a key. The error holds
// ErrInvalidKey if a parameter is not known, empty or given twice, or if the URL has user
// information or a fragment.
func URLParameters(u *url.URL, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err == nil && u.User != nil {
		err = fmt.Errorf("it has user information")
	}
	if err == nil && u.Fragment != "" {
		err = fmt.Errorf("it has a fragment; write # as %%23")
	}
	for parameter, values := range query {
		switch {
		case !slices.Contains(known, parameter):
			err = fmt.Errorf("unknown parameter %q; known are %s", parameter, strings.Join(known, ", "))
		case len(values) > 1:
			err = fmt.Errorf("parameter %q comes twice", parameter)
		case values[0] == "":
			err = fmt.Errorf("parameter %q is empty", parameter)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: URL %q: %w", ErrInvalidKey, u.Redacted(), err)
	}
	return query, nil
}

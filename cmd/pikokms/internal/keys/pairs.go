package keys

import (
	"fmt"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
)

// ParsePairs parses the pairs of -c.
func ParsePairs(given []string) (map[string]string, error) {
	pairs := make(map[string]string)
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, console.Usage(fmt.Errorf("-c %q is not NAME=VALUE", pair))
		}
		if _, ok := pairs[name]; ok {
			return nil, console.Usage(fmt.Errorf("-c %q is given twice", name))
		}
		pairs[name] = value
	}
	return pairs, nil
}

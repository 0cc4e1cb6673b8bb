// Package oddkeys has keys of S3 that programs, shells and manifests get wrong, for tests.
package oddkeys

import (
	"math/rand/v2"
	"strings"
)

// Some returns n keys of S3, or more, that something on the way could take for other ones.
func Some(n int) []string {
	keys := []string{
		"a", "it's", "'", `"`, `\`, `\\n`, "$HOME", "`id`", "$(id)", "a b", "a  b", " a", "a ", "-k", "--help", "a+b", "a%20b", "%", "%zz", "a;b", "a&b", "a|b",
		"a>b", "*", "?", "[a]", "{a,b}", "~", "!", "#a", "a#b", "a?region=us-east-1", "a\nb", "\n", "a\n", "a\r\nb", "\ta", "\x01\x1b[31m\x7f", "é", "日本語", "\u2028", "\u0085",
		"\U0001F600", "/", "//", "/a", "a//b", "./a", "../a", "a/../b", "a/.", "folder/", "=", "a=b", ":", "@", "user@host:1/a", "http://a", strings.Repeat("a", 1024),
		strings.Repeat("'", 1024), strings.Repeat("é", 512), strings.Repeat("\x01", 1024), "a; run pikokms b", "a\xffb",
	}
	alphabet := []rune("aé日 \t\n\r'\"\\$`%+?#&;|<>()[]{}*~!=:@,./-_0\x01\x1b\x7f\u2028")
	for len(keys) < n {
		key := make([]rune, 1+rand.IntN(40))
		for i := range key {
			key[i] = alphabet[rand.IntN(len(alphabet))]
		}
		keys = append(keys, string(key))
	}
	return keys
}

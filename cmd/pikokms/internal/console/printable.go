package console

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// FirstOnly returns label for the first of several lines, whose index is 0, and nothing for the
// others.
func FirstOnly(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

// Printable returns s, in quotes if it could be misread or has characters that control a terminal.
func Printable(s string) string {
	quoted := strconv.Quote(s)
	if quoted == `"`+s+`"` && s != "" && !strings.ContainsAny(s, " ,=") {
		return s
	}
	return quoted
}

// EscapeControls escapes the characters of a JSON text that control a terminal and that
// encoding/json leaves as they are.
func EscapeControls(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

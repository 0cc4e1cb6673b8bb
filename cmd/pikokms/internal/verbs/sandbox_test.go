package verbs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/local"
)

// sandbox is a place in which the command lines of a document run: a folder with some files, a
// shell, and an S3 and a KMS in this process, which the environment names.
type sandbox struct {
	dir    string
	shell  *interp.Runner
	output *transcript
	s3     *s3Server
	s3URL  string
	kms    *kmstest.Server

	mu     sync.Mutex            // programs of a pipe run side by side
	called map[syntax.Pos]string // calls of pikokms, with why they were only parsed, if they were
}

// transcript is what all programs of a statement wrote. The programs of a pipe write at the same
// time.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *transcript) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// take returns what was written since the last call.
func (o *transcript) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.text.Reset()
	return o.text.String()
}

// notInSandbox has the programs that do not run in a sandbox, and why. Command lines of pikokms
// among their arguments are parsed.
var notInSandbox = map[string]string{
	"aws-encryption-cli": "is AWS's command; see TestRestoreWithEncryptionCLIAndSDK",
	"docker":             "needs a Docker engine; .ci/dist runs the image",
	"go":                 "needs a clone; CI builds and installs the command",
	"pip":                "needs a package index",
}

// keyARN is the key of the documents, with the alias of most of them.
const keyARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: it starts some hundred processes")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the documents' command lines use programs and files as Linux has them")
	}
	s := &sandbox{dir: t.TempDir(), output: new(transcript), kms: kmstest.NewServer(t), called: make(map[syntax.Pos]string)}
	s.s3, s.s3URL = newS3Server(t)
	_, id, _ := strings.Cut(keyARN, "key/")
	s.kms.CreateKey(kmstest.Key{Alias: "alias/backups", ID: id})
	s.kms.CreateKey(kmstest.Key{Alias: "alias/backups-2027"})
	primary := s.kms.CreateKey(kmstest.Key{Alias: "alias/worldwide", ID: "mrk-1234abcd12ab34cd56ef1234567890ab", MultiRegion: true})
	s.kms.Replicate(primary.ARN, "eu-central-1")

	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"README.md":         readme,
		"report.pdf":        bytes.Repeat([]byte("report "), 20_000),
		"notes.txt":         []byte("notes\n"),
		"backup.tar":        bytes.Repeat([]byte("backup "), 1_000),
		"photos/a.jpg":      bytes.Repeat([]byte("a"), 70_000),
		"photos/2025/b.jpg": []byte("b"),
		"photos/notes.txt":  []byte("of photos\n"),
	} {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, content, 0o666))
	}
	for _, key := range []string{"backups/monday.tar", "backups/2025/tuesday.tar", "backups/notes.txt"} {
		require.NoError(t, s.upload("bucket/"+key, strings.NewReader("what is stored as "+key+"\n")))
	}
	require.NoError(t, local.Generate(filepath.Join(s.dir, branchKeyMaster)))
	s.shell, err = interp.New(
		interp.Dir(s.dir),
		interp.Env(expand.ListEnviron(append(os.Environ(),
			"HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, keys.Variable+"=", "GORACE="+noRaceSleep,
			"AWS_ENDPOINT_URL_S3="+s.s3URL, "AWS_ENDPOINT_URL_KMS="+s.kms.URL,
			"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
		)...)),
		interp.StdIO(nil, s.output, s.output),
		interp.Params("-o", "pipefail"),
		interp.ExecHandlers(func(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
			return func(ctx context.Context, arguments []string) error { return s.execute(ctx, arguments, next) }
		}),
	)
	require.NoError(t, err)
	return s
}

// run runs statements, until one fails.
func (s *sandbox) run(ctx context.Context, statements ...*syntax.Stmt) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for _, statement := range statements {
		_ = s.output.take()
		if err := s.shell.Run(ctx, statement); err != nil {
			var text strings.Builder
			_ = syntax.NewPrinter().Print(&text, statement)
			return fmt.Errorf("%s: %w\n%s", &text, err, s.output.take())
		}
	}
	return nil
}

// parseShell parses a text in the language of a POSIX shell.
func parseShell(text string) ([]*syntax.Stmt, error) {
	if _, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), ""); err != nil {
		return nil, err
	}
	// The interpreter knows export only as Bash has it.
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, err
	}
	return file.Stmts, nil
}

// execute runs a program of a command line, or what stands in for it.
func (s *sandbox) execute(ctx context.Context, arguments []string, next interp.ExecHandlerFunc) error {
	shell := interp.HandlerCtx(ctx)
	if path := os.Getenv("PIKOKMS_ENCRYPTION_CLI"); arguments[0] == "aws-encryption-cli" && path != "" {
		return next(ctx, append([]string{path}, arguments[1:]...))
	}
	why, isElsewhere := notInSandbox[arguments[0]]
	if _, err := exec.LookPath(arguments[0]); errors.Is(err, exec.ErrNotFound) && arguments[0] == "jq" {
		why, isElsewhere = "jq is not installed", true
	}
	var err error
	switch {
	case arguments[0] == "pikokms" && len(arguments) > 1 && arguments[1] == "serve":
		s.note(shell.Pos, "")
		return s.serve(ctx, shell, arguments)
	case arguments[0] == "pikokms":
		why := whyRemote(arguments)
		s.note(shell.Pos, why)
		if why == "" {
			return next(ctx, withTableInFile(arguments))
		}
		err = parseArguments(arguments)
	case arguments[0] == "aws":
		err = s.aws(shell, arguments[1:])
	case arguments[0] == "a-week-passes":
		err = ageBranchKey(filepath.Join(s.dir, "table.db"), arguments[1], 8*24*time.Hour)
	case isElsewhere:
		if i := indexOfPikokms(arguments); i > 0 {
			s.note(shell.Pos, arguments[0]+" "+why)
			err = parseArguments(arguments[i:])
		}
		if shell.Stdin != nil {
			_, _ = io.Copy(io.Discard, shell.Stdin)
		}
	case indexOfPikokms(arguments) > 0: // as with xargs
		s.note(shell.Pos, "")
		return next(ctx, withTableInFile(arguments))
	default:
		return next(ctx, arguments)
	}
	if err != nil {
		fmt.Fprintf(shell.Stderr, "%s: %v\n", arguments[0], err)
		return interp.ExitStatus(1)
	}
	return nil
}

// note notes that pikokms was called and, if it was only parsed, why.
func (s *sandbox) note(at syntax.Pos, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called[at] = why
}

// remotes has the beginnings of URLs of services that have no stand-in here, and why a command line
// with one is not run.
var remotes = map[string]string{
	"gs://": "needs Google Cloud", "gcpkms://": "needs Google Cloud", "azblob://": "needs Azure",
	"azurekeyvault://": "needs Azure", "vault://": "needs Vault",
}

// whyRemote returns why a command line of pikokms can't run in a sandbox, or nothing if it can.
func whyRemote(arguments []string) string {
	for _, argument := range arguments {
		for scheme, why := range remotes {
			if strings.Contains(argument, scheme) {
				return why
			}
		}
	}
	return ""
}

// withTableInFile returns a command line whose branch keys are in a file and under local keys,
// which stand in for a table of DynamoDB and for keys of KMS.
func withTableInFile(arguments []string) []string {
	arguments = slices.Clone(arguments)
	for i, argument := range arguments {
		u, err := url.Parse(argument)
		switch {
		case err == nil && u.Scheme == "branchkey" && u.Host != "":
			query := u.Query()
			query.Del("key")
			query.Set("master", "local:"+branchKeyMaster)
			if id := strings.TrimPrefix(u.Path, "/"); id != "" {
				query.Set("id", id)
			}
			arguments[i] = "branchkey:table.db?" + query.Encode()
		case strings.HasSuffix(argument, "-ARN"):
			arguments[i] = "local:" + branchKeyMaster + "?name=next"
		}
	}
	return arguments
}

// branchKeyMaster is the file of the key that wraps branch keys in a sandbox.
const branchKeyMaster = "master.key"

// parseArguments parses a command line of pikokms, and checks that its commands, flags and KEYs
// exist.
func parseArguments(arguments []string) error {
	command, rest, err := New().Find(arguments[1:])
	if err != nil {
		return err
	}
	if err := command.ParseFlags(rest); err != nil {
		return err
	}
	for _, flag := range []string{"key", "to"} {
		given, err := command.Flags().GetStringArray(flag)
		if err != nil {
			continue // The command has no such flag.
		}
		for _, text := range given {
			if _, err := keys.Parse([]string{text}, time.Second, false); err != nil {
				return err
			}
		}
	}
	return command.ValidateArgs(command.Flags().Args())
}

// serve runs a server, on any port, until it has answered, and then interrupts it.
func (s *sandbox) serve(ctx context.Context, shell interp.HandlerContext, arguments []string) error {
	const address = "127.0.0.1:0"
	arguments = slices.Clone(arguments)
	if i := slices.Index(arguments, "--address"); i > 0 && strings.HasPrefix(arguments[i+1], "127.0.0.1:") {
		arguments[i+1] = address
	}
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	command.Dir = shell.Dir
	for name, variable := range shell.Env.Each {
		if variable.Exported {
			command.Env = append(command.Env, name+"="+variable.String())
		}
	}
	command.Env = append(command.Env, "PIKOKMS_ADDRESS="+address)
	output, err := command.StderrPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	said := bufio.NewReader(output)
	line, err := said.ReadString('\n') // serving photos at http://127.0.0.1:8080/ until it is interrupted
	at := strings.Index(line, "http://")
	switch {
	case err == nil && at < 0:
		err = errors.New("it names no page")
	case err == nil:
		page, _, _ := strings.Cut(line[at:], " ")
		err = getPage(page)
	}
	fmt.Fprint(shell.Stderr, line)
	_ = command.Process.Signal(os.Interrupt)
	_, copyErr := io.Copy(shell.Stderr, said)
	if err := errors.Join(err, copyErr, command.Wait()); err != nil {
		fmt.Fprintf(shell.Stderr, "serve: %v\n", err)
		return interp.ExitStatus(1)
	}
	return nil
}

// getPage gets a page, and returns an error if it is not served.
func getPage(page string) error {
	response, err := http.Get(page)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", page, response.Status)
	}
	return response.Body.Close()
}

// aws stands in for AWS's command: "aws s3 cp" from a stream, and to a stream or a file, and each
// call of KMS that kmstest knows.
func (s *sandbox) aws(shell interp.HandlerContext, arguments []string) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "s3" && arguments[1] == "cp" && arguments[2] == "-":
		return s.upload(strings.TrimPrefix(arguments[3], "s3://"), shell.Stdin)
	case len(arguments) == 4 && arguments[0] == "s3" && arguments[1] == "cp":
		content, err := s.download(strings.TrimPrefix(arguments[2], "s3://"))
		if err != nil {
			return err
		}
		if arguments[3] != "-" {
			return os.WriteFile(filepath.Join(shell.Dir, arguments[3]), content, 0o666)
		}
		_, err = shell.Stdout.Write(content)
		return err
	case len(arguments) > 1 && arguments[0] == "kms":
		return s.awsKMS(shell.Stdout, arguments[1], arguments[2:])
	}
	return fmt.Errorf("%s has no stand-in here", strings.Join(arguments, " "))
}

func (s *sandbox) download(path string) ([]byte, error) {
	response, err := http.Get(s.s3URL + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(response.Body)
}

func (s *sandbox) upload(path string, content io.Reader) error {
	body, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPut, s.s3URL+"/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return response.Body.Close()
}

// awsKMS makes a call of KMS: --key-id and so on are the request's members.
func (s *sandbox) awsKMS(stdout io.Writer, operation string, flags []string) error {
	region, members := kmstest.Region, make(map[string]any)
	for len(flags) > 0 {
		name := camel(strings.TrimPrefix(flags[0], "--"))
		flags = flags[1:]
		if len(flags) == 0 || strings.HasPrefix(flags[0], "--") {
			members[name] = !strings.HasPrefix(name, "No")
			continue
		}
		value := flags[0]
		flags = flags[1:]
		number, err := strconv.Atoi(value)
		switch {
		case name == "Region":
			region = value
		case err == nil:
			members[name] = number
		default:
			members[name] = value
		}
	}
	if _, ok := members["Query"]; ok {
		return errors.New("--query has no stand-in here; use jq")
	}
	body, err := json.Marshal(members)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, s.kms.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Amz-Target", "TrentService."+camel(operation))
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20270101/"+region+"/kms/aws4_request, SignedHeaders=host, Signature=none")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	if err != nil {
		return err
	}
	_, err = stdout.Write(append(answer, '\n'))
	return err
}

// camel turns key-id into KeyId.
func camel(words string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(words, "-") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// replyTime is how long before an invocation's deadline work ends. It leaves time for the answer,
// and for deleting the parts of an unfinished upload. If a tenth of the invocation's time is less,
// it is that.
const replyTime = 10 * time.Second

// log has a line for each task that failed. Successes are in the job's report alone, since a log of
// a billion lines costs more than the job.
var log = slog.New(slog.NewJSONHandler(os.Stderr, nil))

// handle does what a request of S3 Batch Operations asks for.
func (f *function) handle(ctx context.Context, payload json.RawMessage) (*events.S3BatchJobResponse, error) {
	in, err := parseInvocation(payload)
	if err != nil {
		return nil, err
	}
	workTime := 15 * time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		workTime = time.Until(deadline)
		workTime -= min(replyTime, workTime/10)
	}
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	job, jobErr := f.jobOf(in.arguments)
	if f.err != nil {
		jobErr = f.err
	}
	out := in.newResponse()
	for _, t := range in.tasks {
		done, err := "", jobErr
		if err == nil {
			done, err = f.do(ctx, job, t, workTime)
		}
		result := events.S3BatchJobResult{TaskID: t.id, ResultCode: codeOf(ctx, err), ResultString: done}
		if err != nil {
			if _, advised := errors.AsType[*advice](err); ctx.Err() != nil && !advised {
				err = fmt.Errorf("the time of the invocation ran out: %w", err)
			}
			log.Error("task failed", "job", in.jobID, "task", t.id, "bucket", t.bucket, "key", t.key, "code", result.ResultCode, "reason", err.Error())
			result.ResultString = reasonOf(err, t)
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}

// do does a task and returns what was done, for the job's report.
func (f *function) do(ctx context.Context, job string, t task, workTime time.Duration) (done string, err error) {
	b, err := f.bucket(t.bucket)
	if err != nil {
		return "", err
	}
	v, err := b.open(ctx, job, t)
	if err != nil {
		return "", explain(err)
	}
	o := &object{function: f, bucket: b, Version: v, size: *v.ContentLength, id: aws.ToString(v.VersionId), source: &source{Reader: v.Body}}
	defer func() { _ = o.Body.Close() }() // it was only read
	if o.size == 0 && strings.HasSuffix(v.Key, "/") {
		return "is the empty object that stands for a folder, and stays so", nil
	}
	if err := o.look(); err != nil {
		return "", err
	}
	if done, err := o.lookForClient(ctx, job); done != "" || err != nil {
		return done, err
	}
	if job != verify {
		if done, err := o.judge(ctx, job, t); done != "" || err != nil {
			return done, err
		}
	}
	deadline, _ := ctx.Deadline()
	if err := f.pace.check(o.size, time.Until(deadline), workTime); err != nil {
		return "", o.adviseFor(job, err)
	}
	begin := time.Now()
	done, err = o.work(ctx, job)
	if err == nil {
		f.pace.learn(o.source.read, time.Since(begin))
	} else if ctx.Err() != nil {
		err = o.adviseLate(job, time.Since(begin), err)
	}
	return done, err
}

// open opens the object of a task: the version that the manifest names if it is only read,
// otherwise the current one.
func (b *bucket) open(ctx context.Context, job string, t task) (*s3storage.Version, error) {
	key, plus, err := t.keys()
	if err != nil {
		return nil, err
	}
	id := ""
	if job == verify {
		id = t.version
	}
	if key == plus {
		return b.storage.OpenVersion(ctx, key, id)
	}
	other, err := b.has(ctx, plus, t.version)
	if err != nil {
		return nil, err
	}
	// No two objects have one version, but for those from before there were versions.
	if other && t.version != "" && t.version != "null" {
		return b.storage.OpenVersion(ctx, plus, id)
	}
	v, err := b.storage.OpenVersion(ctx, key, id)
	switch {
	case other && err == nil:
		return nil, errors.Join(fmt.Errorf("the manifest has the key %.300q, and there are both the object %.300q and %.300q; write a space as %%20 and a plus as %%2B", t.key, key, plus), v.Body.Close())
	case other && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the manifest has the key %.300q, in which a plus is a space; there is no such object, but there is %.300q, which has to be written with %%2B", t.key, plus)
	}
	return v, err
}

// maxKey is the size in bytes of S3's longest keys (Amazon S3 User Guide, "Naming Amazon S3
// objects").
const maxKey = 1024

// has reports whether there is an object of a key, or that version of it if there is an id.
func (b *bucket) has(ctx context.Context, key, id string) (bool, error) {
	if len(key) > maxKey {
		return false, nil // S3 has no such key, and would answer with an error
	}
	in := &s3.HeadObjectInput{Bucket: &b.name, Key: &key}
	if id != "" {
		in.VersionId = &id
	}
	_, err := b.client.HeadObject(ctx, in)
	answer, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok {
		return err == nil, err
	}
	switch answer.HTTPStatusCode() {
	case http.StatusNotFound, http.StatusMethodNotAllowed: // the latter is the answer for a version that is a delete marker
		return false, nil
	case http.StatusBadRequest: // the answer for what can't be an id
		if id != "" {
			return false, nil
		}
	}
	return false, fmt.Errorf("looking for the object %.300q: %w", key, err)
}

// object is an object that is worked on.
type object struct {
	*s3storage.Version
	size     int64  // in bytes, as stored
	id       string // of the version; empty in a bucket that never had versions
	function *function
	bucket   *bucket
	source   *source
	start    io.Reader      // what was read of the source, and then the rest
	header   *header.Header // nil if it is no message
	pikoV2   bool
	client   *s3ec.Header // of an object of AWS's S3 Encryption Client
	unbound  bool         // it is bound to no name, though objects are to be bound to theirs
}

// look reads the object's beginning, which shows whether it is encrypted.
func (o *object) look() error {
	start := make([]byte, header.SniffSize)
	n, err := io.ReadFull(o.source, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	start = start[:n]
	read := bytes.NewBuffer(start)
	whole := io.MultiReader(bytes.NewReader(bytes.Clone(start)), o.source)
	if o.pikoV2 = pikov2.Sniff(start); !header.Sniff(start) {
		o.start = whole
		return nil
	}
	read.Reset()
	o.header, err = header.Read(io.TeeReader(whole, read), header.Limits{})
	if _, broken := errors.AsType[*sourceError](err); broken {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: it begins as an encrypted object, but its header can't be read: %w", provider.ErrInvalidCiphertext, err)
	}
	o.start = io.MultiReader(read, o.source)
	return nil
}

// lookForClient looks whether AWS's S3 Encryption Client wrote the object. The object's metadata
// show it or, for what is no message, an instruction file beside it. It returns an error if the job
// encrypts, and why an instruction file is left alone.
func (o *object) lookForClient(ctx context.Context, job string) (done string, err error) {
	o.client, err = o.S3ECHeader(ctx, o.header == nil)
	isInstruction := errors.Is(err, s3ec.ErrInstruction)
	switch {
	case job == encrypt && (isInstruction || o.client != nil):
		return "", fmt.Errorf("it was left as it is, and the job %s moves it: %w, and could not read it any more", rewrap, s3ec.ErrS3EncryptionClient)
	case isInstruction:
		return "is an instruction file of AWS's S3 Encryption Client, and goes with its object", nil
	case err != nil:
		return "", explain(err)
	}
	return "", nil
}

// clientContent is the content of an object that AWS's S3 Encryption Client may have written.
type clientContent struct {
	io.Reader
	client *s3ec.Header
}

// S3ECHeader implements s3ec.Stored.
func (k clientContent) S3ECHeader(context.Context, bool) (*s3ec.Header, error) { return k.client, nil }

// move returns an object of AWS's S3 Encryption Client encrypted under the key.
func (o *object) move(ctx context.Context) (*s3ec.Moved, error) {
	content, _, err := o.bucket.host.DecryptObject(ctx, o.Key, clientContent{o.start, o.client}, o.size, nil)
	if err != nil {
		return nil, err
	}
	plain := content.(*s3ec.Content) // the object has a client
	sealed, err := o.bucket.host.EncryptObject(ctx, o.Key, plain, o.client.Context)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return &s3ec.Moved{Reader: sealed, Content: plain}, nil
}

// judge returns what was done if nothing is left to do, or an error if the job can't replace the
// object. It asks the key service only for the active version of a branch key, for the public half
// of an EC key, and if objects are bound to their names, since nothing in an object shows whether
// it is.
func (o *object) judge(ctx context.Context, job string, t task) (done string, err error) {
	isObject := o.header != nil && o.header.EncryptionContext[provider.PairUse] == provider.UseObject
	isDone := false
	if isObject {
		if isDone, err = o.function.isUnder(ctx, o.header); err != nil {
			return "", err
		}
	}
	if isDone && job == rewrap {
		if isDone, err = o.function.key.isCurrent(ctx, o.header, 0); err != nil {
			return "", err
		}
	}
	if isDone && o.function.bound != "" {
		_, _, err := o.bucket.host.DecryptObject(ctx, o.Key, o.start, o.size, nil)
		switch o.unbound = isUnbound(err); {
		case o.unbound && job == encrypt:
			return "", fmt.Errorf("it is under %s already, but bound to no name; the job %s binds it, with %s", o.function.key.name, rewrap, bindUnbound)
		case err != nil && !o.unbound:
			return "", err
		}
		isDone = !o.unbound
	}
	superseded := t.version != "" && t.version != o.id && !(t.version == "null" && o.id == "")
	switch {
	case isDone:
		return "is under " + o.function.key.name + " already", nil
	case superseded:
		return "", fmt.Errorf("version %s of the manifest is not the current one any more; it and version %s were left as they are", t.version, o.id)
	case o.client != nil:
	case job == rewrap && o.isPlain():
		return "", errPlain
	case job == encrypt && o.pikoV2:
		return "", fmt.Errorf("it begins as a stream that Piko wrote before pikokms; the job %s moves it, with PIKOKMS_ALLOW_PIKO_V2", rewrap)
	case job == encrypt && isObject:
		return "", fmt.Errorf("it is encrypted already, under another key or in an older suite; the job %s moves it", rewrap)
	case job == encrypt && o.header != nil:
		return "", fmt.Errorf("it is a message of the AWS Encryption SDK already, and no stored object")
	}
	return "", nil
}

// errPlain is the error of an object that is to be rewrapped or verified and is not encrypted.
var errPlain = fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; the job %s encrypts it", pikokms.ErrPlaintext, encrypt)

// isPlain reports whether the object does not begin as an encrypted one, of whichever kind.
func (o *object) isPlain() bool { return o.header == nil && !o.pikoV2 && o.client == nil }

// work does a job on the object.
func (o *object) work(ctx context.Context, job string) (done string, err error) {
	var stored io.Reader
	host := o.bucket.host
	switch {
	case job == verify:
		return o.verify(ctx)
	case o.client != nil:
		var moved *s3ec.Moved
		if moved, err = o.move(ctx); err == nil {
			stored = moved
			defer func() { _ = moved.Content.Close() }() // never fails
		}
	case job == encrypt:
		stored, err = host.EncryptObject(ctx, o.Key, o.start, nil)
	case o.pikoV2:
		var content io.Reader
		if content, _, err = host.DecryptObject(ctx, o.Key, o.start, o.size, nil); err == nil {
			stored, err = host.EncryptObject(ctx, o.Key, content, nil)
		}
	default:
		stored, err = o.rewrap(ctx)
	}
	if err != nil {
		return "", err
	}
	if err := o.bucket.storage.Replace(ctx, o.Version, stored); err != nil {
		return "", err
	}
	done = fmt.Sprintf("%s: %d bytes under %s", pastTense[job], o.size, o.function.key.name)
	if o.unbound {
		done += ", and bound to its name"
	}
	return done, nil
}

// rewrap returns the object under the key, and bound to its name if objects are.
func (o *object) rewrap(ctx context.Context) (io.Reader, error) {
	host := o.bucket.host
	if !o.unbound {
		stored, err := host.RewrapObject(ctx, o.Key, o.start)
		if o.unbound = o.function.bound != "" && isUnbound(err); !o.unbound {
			return stored, err
		}
	}
	if !o.function.bindUnbound {
		return nil, fmt.Errorf("%w: it is not bound to its name, or not authentic; if whatever is stored under this name may become its content for good, set %s=true", provider.ErrContextMismatch, bindUnbound)
	}
	// The beginning was read already, so the object is opened again.
	v, err := o.bucket.storage.OpenVersion(ctx, o.Key, o.id)
	if err != nil {
		return nil, err
	}
	_ = o.Body.Close() // it was only read
	o.Version, o.source.Reader = v, v.Body
	return host.BindObject(ctx, o.Key, o.source)
}

// isUnbound reports whether err is that of an object that may be bound to no name.
func isUnbound(err error) bool {
	return errors.Is(err, provider.ErrContextMismatch) && errors.Is(err, provider.ErrDecryptionFailed)
}

var pastTense = map[string]string{encrypt: "encrypted", rewrap: "rewrapped"}

// verify reads the object to its end.
func (o *object) verify(ctx context.Context) (done string, err error) {
	if o.isPlain() {
		return "", errPlain
	}
	content, _, err := o.bucket.host.DecryptObject(ctx, o.Key, clientContent{o.start, o.client}, o.size, nil)
	if isUnbound(err) {
		err = fmt.Errorf("if it is bound to no name, the job %s binds it, with %s: %w", rewrap, bindUnbound, err)
	}
	if err != nil {
		return "", err
	}
	n, err := io.Copy(io.Discard, content)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("verified: %d bytes of %d", n, o.size), nil
}

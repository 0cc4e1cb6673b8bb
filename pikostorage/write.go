package pikostorage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms/provider"
)

// Put implements storage.ProviderPort. It calls the key service once, before it reads or stores
// anything. If it fails, it rewinds the reader, so that Piko can repeat the upload. If the reader
// can't be rewound, the error holds ErrSourceSpent, and Piko does not repeat it. The other errors
// are those of pikokms.Host.Put and of the inner provider.
func (e *encrypted) Put(ctx context.Context, params *storage.PutParams) error {
	return e.put(ctx, params, namedBy(params))
}

// namedBy returns the transformers that Piko's pipeline has applied to an upload's content. Piko
// names them in both the metadata and the configuration. Names in the metadata alone belong to
// another object, which a migration reads. Names in the configuration alone were not applied, since
// Piko's dispatcher made the upload.
func namedBy(params *storage.PutParams) string {
	if params.TransformConfig == nil || len(params.TransformConfig.EnabledTransformers) == 0 || params.Metadata[transformersKey] == "" {
		return noTransformers
	}
	return params.Metadata[transformersKey]
}

func (e *encrypted) put(ctx context.Context, params *storage.PutParams, transformers string) error {
	if params.Reader == nil {
		return fmt.Errorf("put %s: no reader", params.Key)
	}
	content, rewind := rewindable(params.Reader)
	content, transformers, err := e.undoPikosEncryption(ctx, content, transformers)
	if err != nil {
		return fmt.Errorf("put %s: %w", params.Key, rewind(err))
	}
	if err := e.encrypt(ctx, params, content, transformers); err != nil {
		return fmt.Errorf("put %s: %w", params.Key, rewind(err))
	}
	return nil
}

// encrypt encrypts content and stores it with the parameters of params.
func (e *encrypted) encrypt(ctx context.Context, params *storage.PutParams, content io.Reader, transformers string) error {
	sealed, err := e.host.EncryptObject(ctx, objectName(params.Repository, params.Key), content, map[string]string{transformersKey: transformers})
	if err != nil {
		return err
	}
	return e.store(ctx, params, sealed)
}

// store stores encrypted content with the parameters of params.
func (e *encrypted) store(ctx context.Context, params *storage.PutParams, sealed io.Reader) error {
	inner := &storage.PutParams{
		Repository:      params.Repository,
		Key:             params.Key,
		ContentType:     params.ContentType,
		Metadata:        maps.Clone(params.Metadata),
		MultipartConfig: params.MultipartConfig,
		Reader:          sealed,
		Size:            -1, // the stated size is often a guess, or an upper bound
	}
	delete(inner.Metadata, transformersKey)
	if e.inner.SupportsMultipart() {
		if err := inParts(inner, params.Size); err != nil {
			return err
		}
	}
	return e.inner.Put(ctx, inner)
}

const (
	smallUpload = 5 << 20   // bytes; the smallest part that S3 allows
	unknownPart = 16 << 20  // bytes; of an object of unknown size, which may have up to 154 GiB
	largestPart = 100 << 20 // bytes; Piko's default
	mostParts   = 9_900     // of an upload to S3, which allows 10,000; encryption adds some
)

// inParts prepares an upload for a provider that uploads in parts. Such a provider holds several
// parts in memory, of 100 MiB each unless it is configured. So a small object becomes one request,
// of known size and with a reader that can be rewound. For other objects the parts fit the stated
// size.
func inParts(params *storage.PutParams, stated int64) error {
	var start bytes.Buffer
	if _, err := start.ReadFrom(io.LimitReader(params.Reader, smallUpload+1)); err != nil {
		return err
	}
	if start.Len() <= smallUpload {
		params.Reader, params.Size, params.MultipartConfig = bytes.NewReader(start.Bytes()), int64(start.Len()), nil
		return nil
	}
	params.Reader = io.MultiReader(&start, params.Reader)
	config := storage.DefaultMultipartConfig()
	switch {
	case params.MultipartConfig != nil:
		config = *params.MultipartConfig
	case stated > 0:
		config.PartSize = min(max(stated/64, smallUpload), largestPart)
	default:
		config.PartSize = unknownPart
	}
	config.PartSize = max(config.PartSize, stated/mostParts)
	params.MultipartConfig = &config
	return nil
}

// PutMany implements storage.ProviderPort. It puts each object as Put does, params.Concurrency of
// them at a time. So each has parts that fit its size, and Piko can repeat it.
func (e *encrypted) PutMany(ctx context.Context, params *storage.PutManyParams) (*storage.BatchResult, error) {
	transformers := noTransformers
	if c := params.TransformConfig; c != nil && len(c.EnabledTransformers) > 0 {
		names, err := json.Marshal(c.EnabledTransformers)
		if err != nil {
			return nil, err
		}
		transformers = string(names)
	}
	began := time.Now()
	result := &storage.BatchResult{TotalRequested: len(params.Objects)}
	failures := make([]error, len(params.Objects))
	tried := make([]bool, len(params.Objects))
	running, stop := context.WithCancel(ctx)
	defer stop()
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(concurrency(params.Concurrency), len(params.Objects)) {
		workers.Go(func() {
			for i := range next {
				o := params.Objects[i]
				tried[i] = true
				failures[i] = e.put(ctx, &storage.PutParams{
					Repository: params.Repository, Key: o.Key, Reader: o.Reader, ContentType: o.ContentType, Size: o.Size,
				}, transformers)
				if failures[i] != nil && !params.ContinueOnError {
					stop()
				}
			}
		})
	}
	for i := range params.Objects {
		if running.Err() != nil {
			break
		}
		select {
		case next <- i:
		case <-running.Done():
		}
	}
	close(next)
	workers.Wait()
	for i, o := range params.Objects {
		switch {
		case failures[i] != nil:
			result.FailedKeys = append(result.FailedKeys, storage.BatchFailure{
				Key: o.Key, Error: failures[i].Error(), Retryable: storage.IsRetryableError(failures[i]),
			})
		case tried[i]:
			result.SuccessfulKeys = append(result.SuccessfulKeys, o.Key)
		}
	}
	result.TotalSuccessful, result.TotalFailed = len(result.SuccessfulKeys), len(result.FailedKeys)
	result.ProcessingTime = time.Since(began)
	return result, ctx.Err()
}

// concurrency returns how many objects are put at a time. The default is 10, as in Piko.
func concurrency(stated int) int {
	if stated <= 0 {
		return 10
	}
	return stated
}

// Copy implements storage.ProviderPort. If objects are bound to their names, it decrypts the object
// and encrypts it anew. Otherwise it is the inner provider's.
func (e *encrypted) Copy(ctx context.Context, repository string, from, to string) error {
	if !e.host.BindsNames() {
		return e.inner.Copy(ctx, repository, from, to)
	}
	return e.copy(ctx, repository, from, repository, to)
}

// CopyToAnotherRepository implements storage.ProviderPort, as Copy does.
func (e *encrypted) CopyToAnotherRepository(ctx context.Context, fromRepository string, from string, toRepository string, to string) error {
	if !e.host.BindsNames() {
		return e.inner.CopyToAnotherRepository(ctx, fromRepository, from, toRepository, to)
	}
	return e.copy(ctx, fromRepository, from, toRepository, to)
}

// Rename implements storage.ProviderPort. If objects are bound to their names, it decrypts the
// object, encrypts it anew and removes the old one, which is not atomic. Otherwise it is the inner
// provider's.
func (e *encrypted) Rename(ctx context.Context, repository string, from, to string) error {
	if !e.host.BindsNames() {
		return e.inner.Rename(ctx, repository, from, to)
	}
	if from == to {
		_, err := e.Stat(ctx, paramsFor(repository, from))
		return err
	}
	if err := e.copy(ctx, repository, from, repository, to); err != nil {
		return err
	}
	return e.inner.Remove(ctx, paramsFor(repository, from))
}

// copy decrypts an object and encrypts it under another name. What no host stored is bound to no
// name, and is copied as it is: encrypted anew it would be authentic, though nobody knows who made
// it.
func (e *encrypted) copy(ctx context.Context, fromRepository, from, toRepository, to string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %s to %s: %w", from, to, err)
		}
	}()
	s, err := e.open(ctx, fromRepository, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	passed, err := e.isPassed(s.header, s.info.Metadata)
	switch {
	case err != nil:
		return err
	case !passed && s.header != nil && s.header.EncryptionContext[provider.PairUse] == provider.UseObject:
	case fromRepository == toRepository:
		return e.inner.Copy(ctx, fromRepository, from, to)
	default:
		return e.inner.CopyToAnotherRepository(ctx, fromRepository, from, toRepository, to)
	}
	stored, err := e.inner.Get(ctx, paramsFor(fromRepository, from))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	sealed, err := e.host.CopyObject(ctx, objectName(toRepository, to), objectName(fromRepository, from), stored)
	if err != nil {
		return err
	}
	return e.store(ctx, &storage.PutParams{
		Repository: toRepository, Key: to, ContentType: s.info.ContentType, Metadata: s.info.Metadata, Size: s.info.Size,
	}, sealed)
}

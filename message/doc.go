// Package message encrypts and decrypts whole AWS Encryption SDK messages as streams.
//
// It stands between an application, or the transformer of the root package, and a provider. An
// [Encrypter] asks its keyring for a new data key, plain and wrapped, and writes a header and
// frames. A [Decrypter] reads a header of bounded size, and asks keyrings that trust a wrapping key
// to unwrap a data key. Then it checks the key commitment and the header's tag, and opens the
// frames.
//
// Each direction comes as a pull stream (NewReader), as a push stream (NewWriter), and for values
// in memory ([Encrypter.Encrypt], [Decrypter.Decrypt]). [Decrypter.Open] gives random access. Each
// calls the key service once for a message, and holds one frame in memory, or a few on several
// cores (Encrypter.Parallelism). Every official AWS Encryption SDK opens the messages, and this
// package opens theirs.
//
// Incomplete data never pass for complete. A pull stream is complete when Read returns [io.EOF], a
// push stream when Close returns nil. If a source fails, the stream fails with the source's error.
// That holds even if the source fails once and then returns io.EOF, as bodies of HTTP requests do.
//
// Plain data keys are held in [provider.SecureBytes], and closed before the first frame. The
// message's own key stays on the heap for as long as the stream lasts, within its
// [crypto/cipher.AEAD]; see [header.Suite.DeriveKeys] for what else does.
package message

// Package message encrypts and decrypts whole AWS Encryption SDK messages as streams.
//
// It stands between an application, or the transformer of the root package, and a provider. An
// [Encrypter] has one data key made and wrapped, and writes a header and frames. A [Decrypter]
// reads and bounds the header, has a data key unwrapped by a keyring that trusts its wrapping key,
// checks key commitment and header tag, and opens the frames.
//
// Each direction comes as a pull stream (NewReader), as a push stream (NewWriter), and for values
// in memory ([Encrypter.Encrypt], [Decrypter.Decrypt]); [Decrypter.Open] is random access. All of
// them call the key service once for a message and hold one frame in memory, or a few on several
// cores (Encrypter.Parallelism). The messages open with every official AWS Encryption SDK, and the
// other way round.
//
// What is incomplete never passes for whole. A pull stream is whole when Read returns [io.EOF], a
// push stream when Close returns nil. A source that fails ends a stream with its own error, even
// if it fails once and then says io.EOF, as the bodies of HTTP requests do.
//
// Plain data keys are held in [provider.SecureBytes] and closed before the first frame. What stays
// on the heap for as long as a stream lasts is the message's own key, within its
// [crypto/cipher.AEAD]; [header.Suite.DeriveKeys] says what else does.
package message

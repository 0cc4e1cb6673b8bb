// Runs AWS's own Encryption SDK for JavaScript on request: one JSON object in, one out, a line each.
import { constants, createPrivateKey, createPublicKey } from 'node:crypto'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(process.env.PIKOKMS_NODE_MODULES + '/')
const sdk = require('@aws-crypto/client-node')

const wrappingSuites = {
  16: sdk.RawAesWrappingSuiteIdentifier.AES128_GCM_IV12_TAG16_NO_PADDING,
  24: sdk.RawAesWrappingSuiteIdentifier.AES192_GCM_IV12_TAG16_NO_PADDING,
  32: sdk.RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
}

function keyringOf(key) {
  if (key.arn) {
    return new sdk.KmsKeyringNode({ generatorKeyId: key.arn, clientProvider: sdk.getClient(sdk.KMS, { endpoint: process.env.AWS_ENDPOINT_URL }) })
  }
  const names = { keyNamespace: key.namespace, keyName: key.name }
  if (key.pem) {
    const rsaKey = { publicKey: createPublicKey(key.pem).export({ type: 'spki', format: 'pem' }) }
    if (key.pem.includes('PRIVATE')) {
      rsaKey.privateKey = createPrivateKey(key.pem).export({ type: 'pkcs8', format: 'pem' })
    }
    if (key.padding === 'pkcs1') {
      return new sdk.RawRsaKeyringNode({ ...names, rsaKey, padding: constants.RSA_PKCS1_PADDING })
    }
    return new sdk.RawRsaKeyringNode({ ...names, rsaKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: key.hash })
  }
  // The SDK wants memory of its own for a key, not a part of Node's pool.
  const unencryptedMasterKey = Uint8Array.from(Buffer.from(key.key, 'base64'))
  // Without utf8Sorting it binds the data key to a context sorted by locale, with a before Z, which no other SDK opens.
  return new sdk.RawAesKeyringNode({ ...names, unencryptedMasterKey, wrappingSuite: wrappingSuites[unencryptedMasterKey.length], utf8Sorting: true })
}

async function run(request) {
  const commits = request.suite >= 0x0400
  const policy = commits ? sdk.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT : sdk.CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
  const client = sdk.buildClient(policy)
  const data = Buffer.from(request.data ?? '', 'base64')
  if (request.op === 'encrypt') {
    const { result } = await client.encrypt(keyringOf(request.key), data, {
      suiteId: request.suite,
      encryptionContext: request.context,
      frameLength: request.frame_length,
      plaintextLength: data.length,
    })
    return { data: Buffer.from(result).toString('base64') }
  }
  const { plaintext, messageHeader } = await client.decrypt(keyringOf(request.key), data)
  return { data: plaintext.toString('base64'), context: messageHeader.encryptionContext }
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    answer = await run(JSON.parse(line))
  } catch (error) { // the test on the other side judges it
    answer = { error: String(error) }
  }
  console.log(JSON.stringify(answer))
}

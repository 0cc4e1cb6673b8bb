// Runs AWS's Encryption SDK for Java with the hierarchical keyring on request: one JSON object in,
// one out, a line each. DynamoDB and KMS are asked at AWS_ENDPOINT_URL.

import com.amazonaws.encryptionsdk.AwsCrypto;
import com.amazonaws.encryptionsdk.CommitmentPolicy;
import com.amazonaws.encryptionsdk.CryptoAlgorithm;
import com.amazonaws.encryptionsdk.CryptoResult;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import software.amazon.awssdk.protocols.jsoncore.JsonNode;
import software.amazon.awssdk.services.dynamodb.DynamoDbClient;
import software.amazon.awssdk.services.kms.KmsClient;
import software.amazon.cryptography.keystore.KeyStore;
import software.amazon.cryptography.keystore.model.CreateKeyInput;
import software.amazon.cryptography.keystore.model.CreateKeyStoreInput;
import software.amazon.cryptography.keystore.model.Discovery;
import software.amazon.cryptography.keystore.model.GetBeaconKeyInput;
import software.amazon.cryptography.keystore.model.KMSConfiguration;
import software.amazon.cryptography.keystore.model.KeyStoreConfig;
import software.amazon.cryptography.keystore.model.VersionKeyInput;
import software.amazon.cryptography.materialproviders.IBranchKeyIdSupplier;
import software.amazon.cryptography.materialproviders.ICryptographicMaterialsManager;
import software.amazon.cryptography.materialproviders.IKeyring;
import software.amazon.cryptography.materialproviders.MaterialProviders;
import software.amazon.cryptography.materialproviders.model.CreateAwsKmsHierarchicalKeyringInput;
import software.amazon.cryptography.materialproviders.model.CreateDefaultCryptographicMaterialsManagerInput;
import software.amazon.cryptography.materialproviders.model.CreateRequiredEncryptionContextCMMInput;
import software.amazon.cryptography.materialproviders.model.GetBranchKeyIdInput;
import software.amazon.cryptography.materialproviders.model.GetBranchKeyIdOutput;
import software.amazon.cryptography.materialproviders.model.MaterialProvidersConfig;

public class Interop {
  static final URI ENDPOINT = URI.create(System.getenv("AWS_ENDPOINT_URL"));
  static final DynamoDbClient DYNAMODB = DynamoDbClient.builder().endpointOverride(ENDPOINT).build();
  static final KmsClient KMS = KmsClient.builder().endpointOverride(ENDPOINT).build();
  static final MaterialProviders MATERIALS =
      MaterialProviders.builder().MaterialProvidersConfig(MaterialProvidersConfig.builder().build()).build();

  static class ByTenant implements IBranchKeyIdSupplier {
    public GetBranchKeyIdOutput GetBranchKeyId(GetBranchKeyIdInput input) {
      return GetBranchKeyIdOutput.builder().branchKeyId(input.encryptionContext().get("tenant")).build();
    }
  }

  static String text(JsonNode request, String name) {
    return request.field(name).map(JsonNode::text).orElse("");
  }

  static Map<String, String> pairs(JsonNode request) {
    Map<String, String> pairs = new HashMap<>();
    request.field("context").ifPresent(n -> n.asObject().forEach((k, v) -> pairs.put(k, v.text())));
    return pairs;
  }

  static KeyStore store(JsonNode request) {
    KMSConfiguration.Builder keys = KMSConfiguration.builder();
    if (text(request, "key").isEmpty()) {
      keys.discovery(Discovery.builder().build());
    } else {
      keys.kmsKeyArn(text(request, "key"));
    }
    return KeyStore.builder()
        .KeyStoreConfig(
            KeyStoreConfig.builder()
                .ddbClient(DYNAMODB)
                .ddbTableName(text(request, "table"))
                .kmsClient(KMS)
                .kmsConfiguration(keys.build())
                .logicalKeyStoreName(text(request, "logical_name"))
                .build())
        .build();
  }

  static ICryptographicMaterialsManager manager(JsonNode request) {
    CreateAwsKmsHierarchicalKeyringInput.Builder input =
        CreateAwsKmsHierarchicalKeyringInput.builder().keyStore(store(request)).ttlSeconds(60);
    if (text(request, "id").isEmpty()) {
      input.branchKeyIdSupplier(new ByTenant());
    } else {
      input.branchKeyId(text(request, "id"));
    }
    IKeyring keyring = MATERIALS.CreateAwsKmsHierarchicalKeyring(input.build());
    ICryptographicMaterialsManager manager =
        MATERIALS.CreateDefaultCryptographicMaterialsManager(
            CreateDefaultCryptographicMaterialsManagerInput.builder().keyring(keyring).build());
    List<String> required = new ArrayList<>();
    request.field("required").ifPresent(n -> n.asArray().forEach(name -> required.add(name.text())));
    if (required.isEmpty()) {
      return manager;
    }
    return MATERIALS.CreateRequiredEncryptionContextCMM(
        CreateRequiredEncryptionContextCMMInput.builder()
            .requiredEncryptionContextKeys(required)
            .underlyingCMM(manager)
            .build());
  }

  static AwsCrypto crypto(JsonNode request) {
    int suite = Integer.parseInt(text(request, "suite"));
    int frame = Integer.parseInt(text(request, "frame_length"));
    AwsCrypto.Builder builder = AwsCrypto.builder();
    for (CryptoAlgorithm algorithm : CryptoAlgorithm.values()) {
      if ((algorithm.getValue() & 0xffff) == suite) {
        builder.withEncryptionAlgorithm(algorithm);
      }
    }
    if (frame > 0) {
      builder.withEncryptionFrameSize(frame);
    }
    return builder
        .withCommitmentPolicy(
            suite < 0x0400
                ? CommitmentPolicy.ForbidEncryptAllowDecrypt
                : CommitmentPolicy.RequireEncryptRequireDecrypt)
        .build();
  }

  static String quote(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      quoted.append(c < 0x20 || c > 0x7e || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : String.valueOf(c));
    }
    return quoted.append('"').toString();
  }

  static String data(byte[] data) {
    return "\"data\":" + quote(Base64.getEncoder().encodeToString(data));
  }

  static String run(JsonNode request) {
    String id = text(request, "id");
    byte[] data = Base64.getDecoder().decode(text(request, "data"));
    switch (text(request, "op")) {
      case "create-table":
        store(request).CreateKeyStore(CreateKeyStoreInput.builder().build());
        return "{}";
      case "create":
        CreateKeyInput.Builder input = CreateKeyInput.builder();
        if (!id.isEmpty()) {
          input.branchKeyIdentifier(id).encryptionContext(pairs(request));
        }
        return "{\"id\":" + quote(store(request).CreateKey(input.build()).branchKeyIdentifier()) + "}";
      case "version":
        store(request).VersionKey(VersionKeyInput.builder().branchKeyIdentifier(id).build());
        return "{}";
      case "beacon":
        byte[] beacon = new byte[32];
        store(request).GetBeaconKey(GetBeaconKeyInput.builder().branchKeyIdentifier(id).build())
            .beaconKeyMaterials().beaconKey().get(beacon);
        return "{" + data(beacon) + "}";
      case "encrypt":
        return "{" + data(crypto(request).encryptData(manager(request), data, pairs(request)).getResult()) + "}";
      default:
        Map<String, String> stated = request.field("required").isPresent() ? pairs(request) : new HashMap<>();
        CryptoResult<byte[], ?> opened = crypto(request).decryptData(manager(request), data, stated);
        StringBuilder context = new StringBuilder();
        opened.getEncryptionContext().forEach((k, v) ->
            context.append(context.length() > 0 ? "," : "").append(quote(k)).append(':').append(quote(v)));
        return "{" + data(opened.getResult()) + ",\"context\":{" + context + "}}";
    }
  }

  public static void main(String[] arguments) throws Exception {
    PrintStream out = new PrintStream(System.out, true, "UTF-8");
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String answer;
      try {
        answer = run(JsonNode.parser().parse(line));
      } catch (Exception error) { // the test on the other side judges it
        answer = "{\"error\":" + quote(error.toString()) + "}";
      }
      out.println(answer);
    }
    System.exit(0);
  }
}

// Calls a server by gRPC-Web, as a page would: node call.js PROTO TARGET FORMAT
// FORMAT is text, or binary. Prints a line for each answer.
const { GrpcWebClientBase, MethodDescriptor, MethodType } = require("grpc-web");
const protobuf = require("protobufjs");

global.XMLHttpRequest = require("xhr2");

const [proto, target, format] = process.argv.slice(2);
const types = protobuf.loadSync(proto);
const client = new GrpcWebClientBase({ format });

function call(name, request) {
  const path = `/inference.GRPCInferenceService/${name}`;
  const asks = types.lookupType(`inference.${name}Request`);
  const answers = types.lookupType(`inference.${name}Response`);
  const method = new MethodDescriptor(
    path,
    MethodType.UNARY,
    asks.ctor,
    answers.ctor,
    (message) => asks.encode(message).finish(),
    (bytes) => answers.decode(bytes),
  );
  return client.unaryCall(`http://${target}${path}`, request, {}, method);
}

async function main() {
  console.log((await call("ServerMetadata", {})).name);
  const zeros = {
    modelName: "fashion_strided",
    inputs: [{ name: "image", datatype: "FP32", shape: [1, 1, 48, 48] }],
    rawInputContents: [Buffer.alloc(48 * 48 * 4)],
  };
  console.log((await call("ModelInfer", zeros)).rawOutputContents[0].length);
  await call("ModelMetadata", { name: "nobody" }).catch((error) =>
    console.log(error.code, error.message),
  );
}

main().then(() => process.exit(0));

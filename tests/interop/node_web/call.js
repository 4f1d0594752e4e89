// Calls a server by gRPC-Web, as a page would: node call.js PROTO TARGET FORMAT
// FORMAT is text, or binary. Prints a line for each answer.
const { GrpcWebClientBase, MethodDescriptor, MethodType } = require("grpc-web");
const protobuf = require("protobufjs");

global.XMLHttpRequest = require("xhr2");

const [proto, target, format] = process.argv.slice(2);
const types = protobuf.loadSync(proto);
const client = new GrpcWebClientBase({ format });

function described(name, kind, requestType) {
  const path = `/inference.GRPCInferenceService/${name}`;
  const asks = types.lookupType(`inference.${requestType}`);
  const answers = types.lookupType(`inference.${name}Response`);
  const method = new MethodDescriptor(
    path,
    kind,
    asks.ctor,
    answers.ctor,
    (message) => asks.encode(message).finish(),
    (bytes) => answers.decode(bytes),
  );
  return [`http://${target}${path}`, method];
}

function call(name, request) {
  const [url, method] = described(name, MethodType.UNARY, `${name}Request`);
  return client.unaryCall(url, request, {}, method);
}

// xhr2 has the text of an answer only when it has ended: a stream without an end shows it nothing.
function streamed(request) {
  const kind = MethodType.SERVER_STREAMING;
  const [url, method] = described("ModelStreamInfer", kind, "ModelInferRequest");
  const stream = client.serverStreaming(url, request, {}, method);
  stream.on("data", (answer) => console.log(answer.inferResponse.modelName));
  return new Promise((ended) => stream.on("status", (status) => ended(status.code)));
}

async function main() {
  console.log((await call("ServerMetadata", {})).name);
  const zeros = {
    modelName: "fashion_strided",
    inputs: [{ name: "image", datatype: "FP32", shape: [1, 1, 48, 48] }],
    rawInputContents: [Buffer.alloc(48 * 48 * 4)],
  };
  console.log((await call("ModelInfer", zeros)).rawOutputContents[0].length);
  console.log("stream", await streamed(zeros));
  await call("ModelMetadata", { name: "nobody" }).catch((error) =>
    console.log(error.code, error.message),
  );
}

main().then(() => process.exit(0));

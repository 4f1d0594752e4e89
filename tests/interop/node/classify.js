// node classify.js PROTO_FOLDER HOST:PORT MODEL PICTURE: print the server's best class of a picture.
// inference.proto, read as any user would -> ModelInfer with the file's bytes -> "logit:index:label"

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

// The packages lie where they were installed, not beside this file.
const installed = createRequire(path.join(process.cwd(), "package.json"));
const grpc = installed("@grpc/grpc-js");
const protoLoader = installed("@grpc/proto-loader");

const [protos, target, model, picture] = process.argv.slice(2);
const definition = protoLoader.loadSync("inference.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  oneofs: true,
});
const { inference } = grpc.loadPackageDefinition(definition);
const client = new inference.GRPCInferenceService(target, grpc.credentials.createInsecure());

const request = {
  model_name: model,
  inputs: [
    {
      name: "image",
      datatype: "BYTES",
      shape: [1],
      contents: { bytes_contents: [fs.readFileSync(picture)] },
    },
  ],
  outputs: [{ name: "logits", parameters: { classification: { int64_param: 1 } } }],
};
const deadline = Date.now() + 30_000; // milliseconds
client.ModelInfer(request, new grpc.Metadata(), { deadline }, (error, answer) => {
  client.close();
  if (error) {
    console.error(error.message);
    process.exitCode = 1;
    return;
  }
  const [best] = answer.outputs[0].contents.bytes_contents;
  console.log(best.toString());
});

/* Runs an ONNX file once, with whatever ONNX Runtime is named.
   Arguments: library, model, file for the outputs; then of each input a file and its shape, as in 1,3,32,32.
   Of each output: its type and number of elements, two 64-bit integers, and the elements. */
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
enum { MOST = 16 };
static const OrtApi *api;
static void fail(const char *why) { fprintf(stderr, "%s\n", why); exit(1); }
static void ok(OrtStatus *status) { if (status) fail(api->GetErrorMessage(status)); }
/* of an element, by ONNX's number of its type */
static size_t size_of(int type)
{
  return type == 1 || type == 6 ? 4 : type == 7 || type == 11 ? 8 : type == 10 ? 2 : 1;
}
int main(int argc, char **argv)
{
  void *library = dlopen(argv[1], RTLD_NOW);
  if (!library) fail(dlerror());
  const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
  if (!base || !(api = base()->GetApi(ORT_API_VERSION))) fail("the library is older than the header");
  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *net;
  OrtAllocator *allocator;
  OrtMemoryInfo *memory;
  size_t inputs, outputs, count;
  char *names[2 * MOST];
  OrtValue *in[MOST], *out[MOST] = {0};
  ok(api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "compress", &env));
  ok(api->CreateSessionOptions(&options));
  ok(api->SetIntraOpNumThreads(options, 1));
  ok(api->CreateSession(env, argv[2], options, &net));
  ok(api->GetAllocatorWithDefaultOptions(&allocator));
  ok(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  ok(api->SessionGetInputCount(net, &inputs));
  ok(api->SessionGetOutputCount(net, &outputs));
  if (inputs > MOST || outputs > MOST || argc != 4 + 2 * (int)inputs) fail("too many inputs or outputs");
  for (size_t i = 0; i < inputs; ++i) {
    OrtTypeInfo *info;
    const OrtTensorTypeAndShapeInfo *tensor;
    ONNXTensorElementDataType type;
    int64_t shape[MOST];
    size_t rank = 0, bytes;
    ok(api->SessionGetInputName(net, i, allocator, &names[i]));
    ok(api->SessionGetInputTypeInfo(net, i, &info));
    ok(api->CastTypeInfoToTensorInfo(info, &tensor));
    ok(api->GetTensorElementType(tensor, &type));
    bytes = size_of(type);
    for (char *at = argv[5 + 2 * i]; *at && rank < MOST; at += *at == ',') {
      shape[rank] = strtoll(at, &at, 10);
      bytes *= shape[rank++];
    }
    void *data = malloc(bytes ? bytes : 1);
    FILE *file = fopen(argv[4 + 2 * i], "rb");
    if (!data || !file || fread(data, 1, bytes, file) != bytes) fail("an input cannot be read");
    fclose(file);
    ok(api->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape, rank, type, &in[i]));
  }
  for (size_t i = 0; i < outputs; ++i) ok(api->SessionGetOutputName(net, i, allocator, &names[MOST + i]));
  ok(api->Run(net, NULL, (const char *const *)names, (const OrtValue *const *)in, inputs,
    (const char *const *)names + MOST, outputs, out));
  FILE *file = fopen(argv[3], "wb");
  if (!file) fail("the outputs cannot be written");
  for (size_t i = 0; i < outputs; ++i) {
    OrtTensorTypeAndShapeInfo *tensor;
    ONNXTensorElementDataType type;
    void *data;
    ok(api->GetTensorTypeAndShape(out[i], &tensor));
    ok(api->GetTensorElementType(tensor, &type));
    ok(api->GetTensorShapeElementCount(tensor, &count));
    ok(api->GetTensorMutableData(out[i], &data));
    int64_t head[2] = {type, (int64_t)count};
    fwrite(head, sizeof head, 1, file);
    fwrite(data, size_of(type), count, file);
  }
  return fclose(file);
}

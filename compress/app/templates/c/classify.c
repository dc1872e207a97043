/* Classify binary .pgm and .ppm images with the model beside this folder, through ONNX Runtime's C API.
 *
 *     cc -std=c99 -O2 -D_POSIX_C_SOURCE=199309L -I$ORT/include classify.c -L$ORT/lib -lonnxruntime \
 *         -Wl,-rpath,$ORT/lib -o classify
 *     ./classify ../model.onnx ../labels.txt IMAGE ...
 *
 * ORT is an unpacked release of ONNX Runtime for your platform (onnxruntime-linux-x64-*.tgz, for instance).
 * For every image: the class, its probability, and the milliseconds of one inference after a first one.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "onnxruntime_c_api.h"

static const OrtApi *ort;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(OrtStatus *status) {
  if (status != NULL) fail("ONNX Runtime", ort->GetErrorMessage(status));
}

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* Pixels of a binary PGM or PPM file; shape is (height, width, channels). */
static uint8_t *read_image(const char *path, int64_t shape[3]) {
  char kind, space;
  int width, height, most;
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be opened");
  if (fscanf(file, "P%c %d %d %d%c", &kind, &width, &height, &most, &space) != 5 || (kind != '5' && kind != '6'))
    fail(path, "not a binary PGM or PPM file without comments");
  if (most != 255 || width < 1 || height < 1 || width > 32767 || height > 32767) fail(path, "not an image of 8 bits");
  shape[0] = height;
  shape[1] = width;
  shape[2] = kind == '5' ? 1 : 3;
  size_t size = (size_t)height * (size_t)width * (size_t)shape[2];
  uint8_t *pixels = malloc(size);
  if (pixels == NULL) fail(path, "too large");
  if (fread(pixels, 1, size, file) != size) fail(path, "cut short");
  fclose(file);
  return pixels;
}

/* The line of a file with this number, without its end. */
static char *label_of(const char *path, int64_t number) {
  static char line[1024];
  FILE *file = fopen(path, "r");
  if (file == NULL) fail(path, "cannot be opened");
  for (int64_t i = 0; i <= number; i++)
    if (fgets(line, sizeof line, file) == NULL) fail(path, "has fewer classes than the model");
  fclose(file);
  line[strcspn(line, "\r\n")] = '\0';
  return line;
}

static void run(OrtSession *session, const OrtValue *image, OrtValue *answers[2]) {
  const char *inputs[] = {"image"}, *outputs[] = {"label", "probability"};
  for (int i = 0; i < 2; i++) {
    if (answers[i] != NULL) ort->ReleaseValue(answers[i]);
    answers[i] = NULL;
  }
  check(ort->Run(session, NULL, inputs, &image, 1, outputs, 2, answers));
}

static void classify(OrtSession *session, const char *labels, const char *path) {
  int64_t shape[3];
  uint8_t *pixels = read_image(path, shape);
  OrtMemoryInfo *memory;
  OrtValue *image = NULL, *answers[2] = {NULL, NULL};
  check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, pixels, (size_t)(shape[0] * shape[1] * shape[2]), shape, 3,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &image));
  run(session, image, answers);
  double start = now_ms();
  run(session, image, answers);
  double milliseconds = now_ms() - start;
  int64_t *label;
  float *probability;
  check(ort->GetTensorMutableData(answers[0], (void **)&label));
  check(ort->GetTensorMutableData(answers[1], (void **)&probability));
  printf("%s  %.2f %%  %.2f ms\n", label_of(labels, *label), 100.0 * *probability, milliseconds);
  ort->ReleaseValue(answers[0]);
  ort->ReleaseValue(answers[1]);
  ort->ReleaseValue(image);
  ort->ReleaseMemoryInfo(memory);
  free(pixels);
}

int main(int count, char **words) {
  if (count < 4) {
    fprintf(stderr, "usage: classify model.onnx labels.txt IMAGE ...\n");
    return 1;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == NULL) fail("ONNX Runtime", "the library is older than the header it was compiled with");
  OrtEnv *environment;
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &environment));
  check(ort->DisableTelemetryEvents(environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(environment, words[1], options, &session));
  for (int i = 3; i < count; i++) classify(session, words[2], words[i]);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(environment);
  return 0;
}

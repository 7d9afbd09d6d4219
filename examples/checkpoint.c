/*
 * Writes a checkpoint through a Shoal mount and publishes it when it is safe.
 *
 *   cc -std=c11 checkpoint.c $(pkg-config --cflags --libs shoal) -o checkpoint
 *   ./checkpoint /mnt/data/run/step-1000 [TIMEOUT_MS]
 *
 * Exit status: 0 published, 1 not (the reason is on stderr), 2 usage.
 */
#include <inttypes.h>
#include <shoal/shoal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int show(const shoal_progress* progress, void* context) {
  (void)context;
  fprintf(stderr, "%" PRIu64 " of %" PRIu64 " files, %" PRIu64 " bytes left, %.0f MB/s %s\n",
          progress->objects_done, progress->objects_total, progress->bytes_left,
          progress->bytes_per_second / 1e6, progress->stage);
  return 0; /* go on */
}

static int write_file(const char* directory, const char* name, size_t size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE* file = fopen(path, "wb");
  if (file == NULL) {
    perror(path);
    return -1;
  }
  for (size_t i = 0; i < size; ++i) putc((int)(i * 31 % 251), file);
  if (fclose(file) != 0) { /* safe as the mount's --ack says; the rest is Shoal's */
    perror(path);
    return -1;
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: %s DIRECTORY [TIMEOUT_MS]\n", argv[0]);
    return 2;
  }
  const char* directory = argv[1];
  mkdir(directory, 0777);
  if (write_file(directory, "weights", 3000000) != 0) return 1;
  if (write_file(directory, "optimizer", 5000) != 0) return 1;

  shoal_publish_options options = SHOAL_PUBLISH_OPTIONS_INIT;
  options.timeout_ms = argc == 3 ? strtoll(argv[2], NULL, 10) : 600000;
  options.on_progress = show;
  options.keep_last = 2;
  int failure = shoal_publish(NULL, directory, &options);
  if (failure != 0) {
    fprintf(stderr, "%s: %s\n%s\n", directory, shoal_last_error(), strerror(failure));
    fprintf(stderr, "left: %" PRIu64 " bytes\n", shoal_last_progress()->bytes_left);
    return 1;
  }
  printf("%s is published (libshoal %s)\n", directory, shoal_version());
  return 0;
}

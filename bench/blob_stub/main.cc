#include "blob_stub/blob_stub.h"

int main(int argc, char** argv) { return shoal::blob_stub_main(argc, argv); }

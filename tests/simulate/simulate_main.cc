#include "simulate/run_seeds.h"

int main(int argc, char** argv) { return shoal::simulate::simulate_main(argc, argv); }
